"""Narrow: where a classifier reads one token, the way back begins with that token alone.

The gradients of all others are zero until the first attention, and what lies behind it is most of a
transformer's block. So the scores are computed once more, of that token's row from there on, and
differentiated in this form. What the model returns stays what it was.
"""

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from camcore.export.cut import ancestors, dependents
from camcore.export.find.affine import operator_of
from camcore.export.find.updates import ELEMENTWISE
from camcore.export.trace.graphs import outputs_of

aten = torch.ops.aten

_TOKENS = 1  # the axis of (B, T, C)
_NOWHERE = -(2**63)  # what is counted from the end of a slice has no place known before it
_SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}


def narrow(tail: fx.GraphModule, explained: int) -> fx.GraphModule | None:
    """The tail with one output more, the scores (B, N) of output `explained` by way of one token.

    None where they are not read off one token of (B, T, C), or where no linear layer treats the
    tokens one by one before. The values that the tail returns are not gone round: gradients may be
    asked of them.
    """
    module = fx.GraphModule(tail, deepcopy(tail.graph))
    scores = outputs_of(module)[explained]
    leading = ancestors(scores)
    for choice in module.graph.find_nodes(op="call_function", target=aten.select.int):
        if choice not in leading or not _chooses_a_token(choice):
            continue
        places = _places(module, choice, leading)
        if any(node.target is aten.linear.default for node in places):
            _add_scores(module, choice, places, leading & dependents([choice]), scores)
            return module
    return None


def _chooses_a_token(choice: fx.Node) -> bool:
    source, axis, place = choice.args
    value = source.meta["val"]  # type: ignore[union-attr]
    return value.ndim == 3 and axis in (_TOKENS, _TOKENS - 3) and isinstance(place, int)


def _places(module: fx.GraphModule, choice: fx.Node, leading: set[fx.Node]) -> dict[fx.Node, int]:
    """The operators of whose tokens the choice alone has use, in their order: where its token is.

    The last one is the choice itself, with the place in its source.
    """
    kept = set(outputs_of(module))
    place: Any = choice.args[2]
    found: dict[fx.Node, int] = {choice: place}
    for node in reversed(module.graph.nodes):
        users = [user for user in node.users if user in leading]
        if users and found.keys() >= {*users} and node not in kept and _treats_each_token(node):
            places = {_place_before(user, found[user]) for user in users}
            if len(places) == 1 and _NOWHERE not in places:
                found[node] = places.pop()
    return {node: found[node] for node in module.graph.nodes if node in found}


def _place_before(node: fx.Node, place: int) -> int:
    """Where the token at a place of an operator's result was before."""
    if not _slices_tokens(node):
        return place
    start: Any = node.args[2]
    return _NOWHERE if place < 0 else place + start


def _slices_tokens(node: fx.Node) -> bool:
    """Whether it takes tokens that stand side by side, from a known place on."""
    if node.target is not aten.slice.Tensor or len(node.args) < 3:
        return False
    _, axis, start, *others = node.args
    known = isinstance(start, int) and start >= 0
    return known and axis in (_TOKENS, _TOKENS - 3) and others[1:] in ([], [1])


def _treats_each_token(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or value.ndim != 3:
        return False
    if node.target is aten.linear.default:
        return True
    if node.target is aten.layer_norm.default:
        return len(node.args[1]) == 1  # type: ignore[arg-type]
    if node.target is aten.slice.Tensor:
        return _slices_tokens(node) or bool(len(node.args) > 1 and node.args[1] == 0)
    if node.target in _SUMS:
        return all(_has_tokens(each, value) or each.meta["val"].ndim < 2 for each in _tensors(node))
    return operator_of(node) in ELEMENTWISE


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]


def _has_tokens(node: fx.Node, like: Tensor) -> bool:
    """Whether a value has the same axis of tokens; weights do not."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim != 3:
        return False
    return bool(value.shape[_TOKENS] == like.shape[_TOKENS])


def _add_scores(
    module: fx.GraphModule,
    choice: fx.Node,
    places: dict[fx.Node, int],
    behind: set[fx.Node],
    scores: fx.Node,
) -> None:
    graph = module.graph
    twins: dict[fx.Node, fx.Node] = {}
    chosen: dict[tuple[fx.Node, int], fx.Node] = {}

    def one_token(node: fx.Node, like: Tensor, place: int) -> fx.Node:
        if node in twins or not _has_tokens(node, like):
            return twins.get(node, node)
        if (node, place) not in chosen:
            chosen[node, place] = graph.call_function(aten.select.int, (node, _TOKENS, place))
        return chosen[node, place]

    with graph.inserting_before(graph.output_node()):
        for node, place in places.items():
            source: Any = node.args[0]
            if node is choice or _slices_tokens(node):
                twins[node] = one_token(source, source.meta["val"], _place_before(node, place))
            else:
                choose = partial(one_token, like=node.meta["val"], place=place)
                twins[node] = graph.node_copy(node, choose)
        for node in list(graph.nodes):
            if node in behind and node is not choice:
                twins[node] = graph.node_copy(node, lambda each: twins.get(each, each))
        outputs = outputs_of(module)
    graph.output_node().args = ((*outputs, twins[scores]),)
    for twin in (*twins.values(), *chosen.values()):
        twin.meta.pop("val", None)
    module.recompile()
