"""Spell out: an operator becomes what a rule says that it does."""

from torch import fx

from camcore.export.trace.spelling import Rules, spell_out_node
from camcore.export.write.nodes import calls


def spell_out(graph: fx.Graph, rules: Rules) -> None:
    """Put what a rule does in the place of each operator that has one, and is not left alone."""
    for operator in rules:
        for node in calls(graph, operator):
            spell_out_node(graph, node, rules)
