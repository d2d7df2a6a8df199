"""Spell out: an operator becomes what a rule says that it does."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from camcore.export.gradient.rules import Rule
from camcore.export.write.nodes import calls

Rules = Mapping[torch._ops.OpOverload, Rule]


def spell_out(graph: fx.Graph, rules: Rules) -> None:
    """Put what a rule does in the place of each operator that has one, and is not left alone."""
    for operator in rules:
        for node in calls(graph, operator):
            spell_out_node(graph, node, rules)


def spell_out_node(graph: fx.Graph, node: fx.Node, rules: Rules, *, composite: bool = True) -> None:
    """Put what an operator does, by the rules, in its place.

    With `composite` operators that PyTorch makes of others, like a product of arrays, stay what
    they are.
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
    places = dict(zip(spelled.find_nodes(op="placeholder"), given, strict=True))
    with graph.inserting_before(node):
        result: Any = graph.graph_copy(spelled, places)
        node.replace_all_uses_with(result)
    graph.erase_node(node)


def _some_tensor(graph: fx.Graph) -> fx.Node:
    found: fx.Node = next(node for node in graph.nodes if isinstance(node.meta.get("val"), Tensor))
    return found
