"""Spelling: one operator is traced by itself, and what it does takes its place."""

from collections.abc import Callable, Mapping
from operator import mul
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

# What an operator does, in others; NotImplemented where it is to stay what it is.
Rule = Callable[..., Any]
Rules = Mapping[torch._ops.OpOverload, Rule]


def spell_out_node(
    graph: fx.Graph, node: fx.Node, rules: Rules, *, composite: bool = True
) -> list[fx.Node]:
    """Put what an operator does, by the rules, in its place.

    With `composite` operators that PyTorch makes of others, like a product of arrays, stay what
    they are. Returned are the nodes that took its place.
    """
    given = node.all_input_nodes
    values = [each.meta["val"] for each in given]
    if not any(isinstance(value, Tensor) for value in values):
        # Sizes alone do not say to which trace they belong.
        given, values = [*given, _some_tensor(graph)], [*values, _some_tensor(graph).meta["val"]]
    target: Callable[..., Any] = node.target  # type: ignore[assignment]

    def operator(*values: Any) -> Any:
        known = dict(zip(given, values, strict=True))
        arguments, named = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        return target(*arguments, **named)

    trace = make_fx(
        operator, decomposition_table=dict(rules), tracing_mode="symbolic", pre_dispatch=composite
    )
    spelled = trace(*values).graph
    _count_by_sizes(spelled)
    inputs = spelled.find_nodes(op="placeholder")
    places = dict(zip(inputs, given, strict=True))
    with graph.inserting_before(node):
        result: Any = graph.graph_copy(spelled, places)
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):  # each takes one of the results
            user.replace_all_uses_with(result[user.args[1]])
            graph.erase_node(user)
    graph.erase_node(node)
    return [places[each] for each in spelled.nodes if each in places and each not in inputs]


def _count_by_sizes(graph: fx.Graph) -> None:
    """Put the product of a value's sizes in the place of how many numbers it has, which torch.onnx
    does not know.
    """
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.sym_numel.default):
        (value,) = node.all_input_nodes
        with graph.inserting_before(node):
            count: Any = 1
            known: Any = 1
            for axis, size in enumerate(value.meta["val"].shape):
                factor = size
                if not isinstance(size, int):
                    factor = graph.call_function(torch.ops.aten.sym_size.int, (value, axis))
                    factor.meta["val"] = size
                count, known = graph.call_function(mul, (count, factor)), known * size
                count.meta["val"] = known
        node.replace_all_uses_with(count)
        graph.erase_node(node)


def _some_tensor(graph: fx.Graph) -> fx.Node:
    found: fx.Node = next(node for node in graph.nodes if isinstance(node.meta.get("val"), Tensor))
    return found
