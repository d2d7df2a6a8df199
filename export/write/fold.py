"""Fold: what is done to every image alike is done to the weights, once."""

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from camcore.export.cut import dependents
from camcore.export.write.nodes import call, calls
from camcore.export.write.reductions import reduced_product, replace_reduced

aten = torch.ops.aten


def fold_scales(graph: fx.Graph, inputs: Collection[str]) -> None:
    """Multiply the weights of a convolution, in place of its input, by a constant for each channel.

    The way back through batch norm and convolution is such a pair. For runtimes that compute once,
    at load, what depends on weights alone; others would pay for it at every run.

    Args:
        graph: rewritten in place.
        inputs: the names of the placeholders that are not weights.
    """
    varying = _varying(graph, inputs)
    for convolution in calls(graph, aten.convolution.default):
        scaled: Any = convolution.args[0]
        if scaled.target is not aten.mul.Tensor or len(scaled.users) > 1:
            continue
        x, scale = scaled.args
        axis = _input_channel_axis(convolution)
        if axis is None or not isinstance(scale, fx.Node) or scale in varying:
            continue
        shape, rank = scale.meta["val"].shape, x.meta["val"].ndim
        if tuple(shape) != (x.meta["val"].shape[1], *[1] * (rank - 2)):
            continue
        with graph.inserting_before(convolution):
            weight: Any = convolution.args[1]
            along = [-1 if n == axis else 1 for n in range(rank)]
            aligned = call(graph, aten.view.default, (scale, along))
            product = call(graph, aten.mul.Tensor, (weight, aligned))
        convolution.args = (x, product, *convolution.args[2:])
    graph.eliminate_dead_code()


def fold_reductions(graph: fx.Graph, inputs: Collection[str]) -> None:
    """Reduce the weight of a product, in place of what it gives: sum(view(x @ w)) -> x @ sum(w).

    Grad-CAM takes the mean over space of a gradient that came through a linear layer of all points:
    the largest weight of AlexNet and VGG, of which this reads one value for each of a channel's
    points. For runtimes that compute once, at load, what depends on weights alone.

    Args: as `fold_scales`.
    """
    varying = _varying(graph, inputs)
    for operator in (aten.mean.dim, aten.sum.dim_IntList):
        for reduced in calls(graph, operator):
            product, points = reduced_product(reduced)
            if product is None or len(product.users) > 1 or not isinstance(points, int):
                continue
            x, weight = product.args
            rows, columns = weight.meta["val"].shape
            if weight in varying or columns % points:
                continue
            with graph.inserting_before(reduced):
                apart = call(graph, aten.view.default, (weight, [rows, columns // points, points]))
                folded = call(graph, operator, (apart, [-1]))
                replace_reduced(graph, reduced, call(graph, aten.mm.default, (x, folded)))
    graph.eliminate_dead_code()


def _varying(graph: fx.Graph, inputs: Collection[str]) -> set[fx.Node]:
    """What depends on more than weights."""
    return dependents([n for n in graph.find_nodes(op="placeholder") if n.name in inputs])


def _input_channel_axis(convolution: fx.Node) -> int | None:
    """The axis of a convolution's weight that counts the channels of its input, if one does."""
    _, weight, *_, transposed, _, groups = convolution.args
    depthwise = (groups, 1) == tuple(weight.meta["val"].shape[:2])  # type: ignore[union-attr]
    if transposed or depthwise:
        return 0
    return 1 if groups == 1 else None
