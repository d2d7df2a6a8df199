"""Simplify: what a captured graph computes for nothing.

Behind global average pooling every point of a channel has the same gradient. Autograd spreads it
over the points and divides each by their number, and Grad-CAM takes the mean over the points again.
That mean of the gradient is all that Grad-CAM wants: what mixes channels point by point, as the way
back through a convolution of one point does, can wait until it is taken. And the mean of a mask
times the way back through a strided depthwise convolution is told by the mask's own convolution.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from camcore.export.gradient.rules import OWN_OPERATORS
from camcore.export.gradient.rules.convolutions import STRIDED_DEPTHWISE
from camcore.export.trace.graphs import shape_of
from camcore.export.write.nodes import call, calls
from camcore.export.write.reductions import (
    RESHAPES,
    count_last_axes,
    reduced_product,
    replace_reduced,
)
from camcore.export.write.spell_out import spell_out

aten = torch.ops.aten


def simplify(graph: fx.Graph) -> None:
    """Rewrite a graph in place; what it computes stays the same, but for rounding."""
    for division in calls(graph, aten.div.Scalar):
        _divide_before_spreading(graph, division)
    for mean in calls(graph, aten.mean.dim):
        _mean_of_equals(graph, mean)
    for mean in calls(graph, aten.mean.dim):
        _mean_of_shares(graph, mean)
    for mean in calls(graph, aten.mean.dim):
        _mean_first(graph, mean)
    for product in calls(graph, aten.mul.Tensor):
        _spread_by_product(product)
    for view in calls(graph, aten.view.default):
        # A view was possible with the strides that were traced; what is simplified has others.
        view.target = aten.reshape.default
    graph.eliminate_dead_code()
    spell_out(graph, OWN_OPERATORS)


def _divide_before_spreading(graph: fx.Graph, division: fx.Node) -> None:
    """expand(x) / n -> expand(x / n), and expand(view(x)) / n -> expand(view(x / n)).

    A view that adds axes of one point is put off, for along these onnxruntime divides one by one.
    """
    spread: Any = division.args[0]
    if spread.target is not aten.expand.default:
        return
    steps, x = [spread], spread.args[0]
    if x.target in RESHAPES:
        steps, x = [x, spread], x.args[0]
    with graph.inserting_before(division):
        quotient = call(graph, aten.div.Scalar, (x, division.args[1]))
        for step in steps:
            quotient = call(graph, step.target, (quotient, *step.args[1:]))
        division.replace_all_uses_with(quotient)


def _spread_by_product(product: fx.Node) -> None:
    """expand(x) * y -> x * y, if y has all that x is spread along: a product spreads by itself."""
    for place, spread in enumerate(product.args):
        other = product.args[1 - place]
        if not isinstance(spread, fx.Node) or spread.target is not aten.expand.default:
            continue
        if not isinstance(other, fx.Node) or other.target is aten.expand.default:
            continue
        if shape_of(other) == shape_of(product):
            product.update_arg(place, spread.args[0])


def _mean_of_equals(graph: fx.Graph, mean: fx.Node) -> None:
    """mean(expand(x)) -> x without the axes that it was spread along, the last ones."""
    spread, count = _averaged(mean)
    if spread is None or spread.target is not aten.expand.default:
        return
    x: Any = spread.args[0]
    if set(shape_of(x)[-count:]) != {"1"}:
        return
    with graph.inserting_before(mean):
        _replace_mean(graph, mean, x, count)


def _averaged(mean: fx.Node) -> tuple[Any, int]:
    """What the mean over so many last axes is taken of, None where others are among them.

    Looked through is a reshape that leaves those axes as they are.
    """
    count = count_last_axes(mean)
    given: Any = mean.args[0]
    if not count:
        return None, count
    if given.target not in RESHAPES:
        return given, count
    inner = given.args[0]
    kept = shape_of(given)[-count:] == shape_of(inner)[-count:]
    return (inner if kept else None), count


def _mean_of_shares(graph: fx.Graph, mean: fx.Node) -> None:
    """mean(view(x @ (m / sum(m)))) -> sum(x) / n, for the n shares of a row add up to 1.

    The way back through adaptive average pooling is such a product.
    """
    product, points = reduced_product(mean)
    if product is None or not _is_divided_by_its_sum(product.args[1]):
        return
    if str(points) != shape_of(product)[1]:
        return
    view: Any = mean.args[0]
    with graph.inserting_before(mean):
        total = call(graph, aten.sum.dim_IntList, (product.args[0], [-1]))
        sizes = view.args[1][-count_last_axes(mean) :]
        replace_reduced(graph, mean, _divided(graph, total, sizes))


def _divided(graph: fx.Graph, total: fx.Node, sizes: Sequence[Any]) -> fx.Node:
    """What adds up to a total over axes of these sizes, as its mean."""
    for size in sizes:
        total = call(graph, aten.div.Scalar, (total, size))
    return total


def _is_divided_by_its_sum(shares: Any) -> bool:
    if shares.target is not aten.div.Tensor:
        return False
    inside, total = shares.args
    return total.target is aten.sum.dim_IntList and total.args == (inside, [-1], True)


def _replace_mean(graph: fx.Graph, mean: fx.Node, kept: fx.Node, count: int) -> None:
    """Put the same mean, with axes of one point where it was taken, in a mean's place."""
    given: Any = mean.args[0]
    if given.target in RESHAPES:
        replace_reduced(graph, mean, kept)
    else:
        axes = list(range(-count, 0))
        mean.replace_all_uses_with(call(graph, aten.squeeze.dims, (kept, axes)))


def _mean_first(graph: fx.Graph, mean: fx.Node) -> None:
    """mean(f(x)) -> f(mean(x)), for what mixes the channels of each point by itself."""
    x, count = _averaged(mean)
    if x is None or x.meta["val"].ndim != count + 2:
        return
    if len(mean.args[0].users) > 1 or not _can_wait(x):  # type: ignore[union-attr]
        return
    with graph.inserting_before(mean):
        _replace_mean(graph, mean, _early_mean(graph, x, count), count)


def _can_wait(x: Any) -> bool:
    """Whether a value, or a term of its sum, only mixes or scales the channels of each point."""
    if len(x.users) > 1:
        return False
    if _is_masked_way_back(x):
        return True
    if x.target is aten.mul.Tensor:
        return _is_of_channels(x.args[1], x.meta["val"].ndim - 2)
    if x.target is aten.add.Tensor and not x.kwargs:
        terms = [term for term in x.args if isinstance(term, fx.Node)]
        alike = [term for term in terms if shape_of(term) == shape_of(x)]
        return len(alike) == 2 and any(map(_can_wait, alike))
    return x.target is aten.convolution.default and _turns_each_point(x)


def _early_mean(graph: fx.Graph, x: Any, count: int) -> fx.Node:
    """The mean of a value over its last axes, kept as ones, taken before what can wait."""
    if not _can_wait(x):
        return call(graph, aten.mean.dim, (x, list(range(-count, 0)), True))
    if x.target is aten.add.Tensor:
        return call(graph, x.target, tuple(_early_mean(graph, term, count) for term in x.args))
    if _is_masked_way_back(x):
        return _mean_of_masked_way_back(graph, x)
    given, *how = x.args  # of a convolution, or of a product with a scale
    return call(graph, x.target, (_early_mean(graph, given, count), *how))


def _is_masked_way_back(x: Any) -> bool:
    """Whether a value is the way back through a strided depthwise convolution, times another."""
    if x.target is not aten.mul.Tensor:
        return False
    back, mask = x.args
    if back.target is not STRIDED_DEPTHWISE or len(back.users) > 1:
        return False
    return isinstance(mask, fx.Node) and shape_of(mask) == shape_of(x)


def _mean_of_masked_way_back(graph: fx.Graph, product: Any) -> fx.Node:
    """mean(D'(g) * mask) -> sum(g * D(mask)) / n, kept as axes of one point.

    D is a convolution with steps and one kernel a channel, and D' the way back through it, which
    would have to put zeros between.
    """
    back, mask = product.args
    grad, weight, sizes, *how = back.args
    dtype = grad.meta["val"].dtype
    if mask.meta["val"].dtype != dtype:
        mask = call(graph, aten.to.dtype, (mask, dtype))
    groups = weight.meta["val"].shape[0]
    seen = call(graph, aten.convolution.default, (mask, weight, None, *how, False, [0, 0], groups))
    product = call(graph, aten.mul.Tensor, (grad, seen))
    mean = _divided(graph, call(graph, aten.sum.dim_IntList, (product, [-2, -1])), sizes)
    for _ in sizes:
        mean = call(graph, aten.unsqueeze.default, (mean, -1))
    return mean


def _is_of_channels(scale: Any, count: int) -> bool:
    """Whether a factor is the same at all points of the last axes."""
    return isinstance(scale, fx.Node) and set(shape_of(scale)[-count:]) == {"1"}


def _turns_each_point(convolution: fx.Node) -> bool:
    """Whether a convolution takes each point by itself, on the way back.

    There its kernel is made of a weight. The model's own convolutions take one as it is, and are
    left alone: what the model answers keeps its rounding.
    """
    weight: Any
    _, weight, _, stride, padding, _, transposed, *_ = convolution.args
    kernel = weight.meta["val"].shape[2:]
    ones = all(size == 1 for size in [*kernel, *stride])  # type: ignore[misc]
    plain = not transposed and not any(padding)  # type: ignore[arg-type]
    return ones and plain and weight.op == "call_function"
