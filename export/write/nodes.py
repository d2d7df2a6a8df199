"""Nodes: calls of operators in a graph, found and made."""

from typing import Any

from torch import fx


def calls(graph: fx.Graph, operator: Any) -> list[fx.Node]:
    return list(graph.find_nodes(op="call_function", target=operator))


def call(
    graph: fx.Graph, operator: Any, arguments: tuple[Any, ...], *, like: fx.Node | None = None
) -> fx.Node:
    """A new node with the value that exporters look up; `like` another's, or computed."""
    node = graph.call_function(operator, arguments)
    if like is not None:
        node.meta["val"] = like.meta["val"]
    else:
        values = fx.map_arg(arguments, lambda argument: argument.meta["val"])
        node.meta["val"] = operator(*values)
    return node
