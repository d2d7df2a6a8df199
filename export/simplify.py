"""Simplify: what a captured graph computes for nothing.

Behind global average pooling every point of a channel has the same gradient. Autograd spreads it
over the points and divides each by their number, and Grad-CAM takes the mean over the points again.
"""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_RESHAPES = {aten.view.default, aten.reshape.default}


def simplify(graph: fx.Graph) -> None:
    """Rewrite a graph in place; what it computes stays the same, but for rounding."""
    for division in _calls(graph, aten.div.Scalar):
        _divide_before_spreading(graph, division)
    for mean in _calls(graph, aten.mean.dim):
        _mean_of_equals(graph, mean)
    graph.eliminate_dead_code()


def _calls(graph: fx.Graph, operator: Any) -> list[fx.Node]:
    return list(graph.find_nodes(op="call_function", target=operator))


def _divide_before_spreading(graph: fx.Graph, division: fx.Node) -> None:
    """expand(x) / n -> expand(x / n)."""
    spread: Any = division.args[0]
    if spread.target is not aten.expand.default:
        return
    with graph.inserting_before(division):
        quotient = _call(graph, aten.div.Scalar, (spread.args[0], division.args[1]))
        division.replace_all_uses_with(
            _call(graph, aten.expand.default, (quotient, *spread.args[1:]), like=division)
        )


def _mean_of_equals(graph: fx.Graph, mean: fx.Node) -> None:
    """mean(expand(x)) -> x without the axes that it was spread along, the last ones."""
    spread: Any = mean.args[0]
    shape = spread.args[1] if spread.target in _RESHAPES else None
    if shape is not None:
        spread = spread.args[0]
    axes: Any = mean.args[1]
    count = len(axes)
    if spread.target is not aten.expand.default or mean.args[2:] or mean.kwargs:
        return
    rank = len(shape) if shape is not None else spread.meta["val"].ndim
    x: Any = spread.args[0]
    last = sorted(axis % rank for axis in axes) == list(range(rank - count, rank))
    sizes = spread.meta["val"].shape[-count:]
    kept = mean.args[0].meta["val"].shape[-count:] == sizes  # type: ignore[union-attr]
    if not last or not kept or any(size != 1 for size in x.meta["val"].shape[-count:]):
        return
    with graph.inserting_before(mean):
        plain = _call(graph, aten.squeeze.dims, (x, list(range(-count, 0))))
        if shape is not None:
            plain = _call(graph, aten.reshape.default, (plain, list(shape[:-count])), like=mean)
        mean.replace_all_uses_with(plain)


def _call(
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
