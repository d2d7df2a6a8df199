"""Spell out: an operator becomes what a rule says that it does."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from camcore.export.gradient.rules import Rule
from camcore.export.write.nodes import calls


def spell_out(graph: fx.Graph, rules: Mapping[torch._ops.OpOverload, Rule]) -> None:
    """Put what a rule does in the place of each operator that has one, and is not left alone."""
    for operator in rules:
        for node in calls(graph, operator):
            _spell_out(graph, node, rules)


def _spell_out(graph: fx.Graph, node: fx.Node, rules: Mapping[torch._ops.OpOverload, Rule]) -> None:
    given = node.all_input_nodes

    def operator(*values: Any) -> Any:
        known = dict(zip(given, values, strict=True))
        arguments, named = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        return node.target(*arguments, **named)  # type: ignore[operator]

    # Above autograd, where operators like a product of arrays are still what they are.
    trace = make_fx(
        operator, decomposition_table=dict(rules), tracing_mode="symbolic", pre_dispatch=True
    )
    spelled = trace(*(each.meta["val"] for each in given)).graph
    places = dict(zip(spelled.find_nodes(op="placeholder"), given, strict=True))
    with graph.inserting_before(node):
        result: Any = graph.graph_copy(spelled, places)
        node.replace_all_uses_with(result)
    graph.erase_node(node)
