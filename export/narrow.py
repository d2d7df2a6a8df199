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

from camcore.export.affine import operator_of
from camcore.export.cut import dependents
from camcore.export.trace import outputs_of
from camcore.export.updates import ELEMENTWISE

aten = torch.ops.aten

_TOKENS = 1  # the axis of (B, T, C)
_SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}


def narrow(tail: fx.GraphModule, explained: int) -> fx.GraphModule | None:
    """The tail with one output more, the scores (B, N) of output `explained` by way of one token.

    None where they are not read off one token of (B, T, C), or where no linear layer treats the
    tokens one by one before. The values that the tail returns are not gone round: gradients may be
    asked of them.
    """
    module = fx.GraphModule(tail, deepcopy(tail.graph))
    scores = outputs_of(module)[explained]
    leading = _ancestors(scores)
    for choice in module.graph.find_nodes(op="call_function", target=aten.select.int):
        if choice not in leading or not _chooses_a_token(choice):
            continue
        rows = _row_by_row(module, choice, leading)
        if any(node.target is aten.linear.default for node in rows):
            _add_scores(module, choice, rows, leading & dependents([choice]), scores)
            return module
    return None


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    found, pending = {node}, [node]
    while pending:
        for value in pending.pop().all_input_nodes:
            if value not in found:
                found.add(value)
                pending.append(value)
    return found


def _chooses_a_token(choice: fx.Node) -> bool:
    source, axis, place = choice.args
    value = source.meta["val"]  # type: ignore[union-attr]
    return value.ndim == 3 and axis in (_TOKENS, _TOKENS - 3) and isinstance(place, int)


def _row_by_row(module: fx.GraphModule, choice: fx.Node, leading: set[fx.Node]) -> list[fx.Node]:
    """The operators before the choice of whose tokens it alone has use, in their order."""
    kept = set(outputs_of(module))
    found: set[fx.Node] = {choice}
    for node in reversed(module.graph.nodes):
        users = [user for user in node.users if user in leading]
        if users and found.issuperset(users) and node not in kept and _treats_each_token(node):
            found.add(node)
    return [node for node in module.graph.nodes if node in found and node is not choice]


def _treats_each_token(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or value.ndim != 3:
        return False
    if node.target is aten.linear.default:
        return True
    if node.target is aten.layer_norm.default:
        return len(node.args[1]) == 1  # type: ignore[arg-type]
    if node.target is aten.slice.Tensor:
        return bool(len(node.args) > 1 and node.args[1] == 0)
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
    rows: list[fx.Node],
    behind: set[fx.Node],
    scores: fx.Node,
) -> None:
    graph = module.graph
    place: Any = choice.args[2]
    twins: dict[fx.Node, fx.Node] = {}

    def chosen(node: fx.Node, like: Tensor) -> fx.Node:
        if node not in twins and _has_tokens(node, like):
            twins[node] = graph.call_function(aten.select.int, (node, _TOKENS, place))
        return twins.get(node, node)

    with graph.inserting_before(graph.output_node()):
        for node in rows:
            twins[node] = graph.node_copy(node, partial(chosen, like=node.meta["val"]))
        twins[choice] = twins[choice.args[0]]  # type: ignore[index]
        for node in list(graph.nodes):
            if node in behind and node is not choice:
                twins[node] = graph.node_copy(node, lambda each: twins.get(each, each))
        outputs = outputs_of(module)
    graph.output_node().args = ((*outputs, twins[scores]),)
    for twin in twins.values():
        twin.meta.pop("val", None)
    module.recompile()
