"""Simplify: what a captured graph computes for nothing.

Behind global average pooling every point of a channel has the same gradient. Autograd spreads it
over the points and divides each by their number, and Grad-CAM takes the mean over the points again.
That mean of the gradient is all that Grad-CAM wants: what mixes channels point by point, as the way
back through a convolution of one point does, can wait until it is taken. And the mean of a mask
times the way back through a strided depthwise convolution is told by the mask's own convolution.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from camcore.export.cut import dependents
from camcore.export.gradient.rules import OWN_OPERATORS, STRIDED_DEPTHWISE, Rule

aten = torch.ops.aten

_RESHAPES = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}


def simplify(graph: fx.Graph) -> None:
    """Rewrite a graph in place; what it computes stays the same, but for rounding."""
    for division in _calls(graph, aten.div.Scalar):
        _divide_before_spreading(graph, division)
    for mean in _calls(graph, aten.mean.dim):
        _mean_of_equals(graph, mean)
    for mean in _calls(graph, aten.mean.dim):
        _mean_of_shares(graph, mean)
    for mean in _calls(graph, aten.mean.dim):
        _mean_first(graph, mean)
    for product in _calls(graph, aten.mul.Tensor):
        _spread_by_product(product)
    for view in _calls(graph, aten.view.default):
        # A view was possible with the strides that were traced; what is simplified has others.
        view.target = aten.reshape.default
    graph.eliminate_dead_code()
    spell_out(graph, OWN_OPERATORS)


def spell_out(graph: fx.Graph, rules: Mapping[torch._ops.OpOverload, Rule]) -> None:
    """Put what a rule does in the place of each operator that has one, and is not left alone."""
    for operator in rules:
        for node in _calls(graph, operator):
            _spell_out(graph, node, rules)


def fold_scales(graph: fx.Graph, inputs: Collection[str]) -> None:
    """Multiply the weights of a convolution, in place of its input, by a constant for each channel.

    The way back through batch norm and convolution is such a pair. For runtimes that compute once,
    at load, what depends on weights alone; others would pay for it at every run.

    Args:
        graph: rewritten in place.
        inputs: the names of the placeholders that are not weights.
    """
    varying = _varying(graph, inputs)
    for convolution in _calls(graph, aten.convolution.default):
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
            aligned = _call(graph, aten.view.default, (scale, along))
            product = _call(graph, aten.mul.Tensor, (weight, aligned))
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
        for reduced in _calls(graph, operator):
            product, points = _reduced_product(reduced)
            if product is None or len(product.users) > 1 or not isinstance(points, int):
                continue
            x, weight = product.args
            rows, columns = weight.meta["val"].shape
            if weight in varying or columns % points:
                continue
            with graph.inserting_before(reduced):
                apart = _call(graph, aten.view.default, (weight, [rows, columns // points, points]))
                folded = _call(graph, operator, (apart, [-1]))
                _replace_reduced(graph, reduced, _call(graph, aten.mm.default, (x, folded)))
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


def _calls(graph: fx.Graph, operator: Any) -> list[fx.Node]:
    return list(graph.find_nodes(op="call_function", target=operator))


def _divide_before_spreading(graph: fx.Graph, division: fx.Node) -> None:
    """expand(x) / n -> expand(x / n), and expand(view(x)) / n -> expand(view(x / n)).

    A view that adds axes of one point is put off, for along these onnxruntime divides one by one.
    """
    spread: Any = division.args[0]
    if spread.target is not aten.expand.default:
        return
    steps, x = [spread], spread.args[0]
    if x.target in _RESHAPES:
        steps, x = [x, spread], x.args[0]
    with graph.inserting_before(division):
        quotient = _call(graph, aten.div.Scalar, (x, division.args[1]))
        for step in steps:
            quotient = _call(graph, step.target, (quotient, *step.args[1:]))
        division.replace_all_uses_with(quotient)


def _spread_by_product(product: fx.Node) -> None:
    """expand(x) * y -> x * y, if y has all that x is spread along: a product spreads by itself."""
    for place, spread in enumerate(product.args):
        other = product.args[1 - place]
        if not isinstance(spread, fx.Node) or spread.target is not aten.expand.default:
            continue
        if not isinstance(other, fx.Node) or other.target is aten.expand.default:
            continue
        if tuple(other.meta["val"].shape) == tuple(product.meta["val"].shape):
            product.update_arg(place, spread.args[0])


def _mean_of_equals(graph: fx.Graph, mean: fx.Node) -> None:
    """mean(expand(x)) -> x without the axes that it was spread along, the last ones."""
    spread, count = _averaged(mean)
    if spread is None or spread.target is not aten.expand.default:
        return
    x: Any = spread.args[0]
    if any(size != 1 for size in x.meta["val"].shape[-count:]):
        return
    with graph.inserting_before(mean):
        _replace_mean(graph, mean, x, count)


def _averaged(mean: fx.Node) -> tuple[Any, int]:
    """What the mean over so many last axes is taken of, None where others are among them.

    Looked through is a reshape that leaves those axes as they are.
    """
    count = _count_last_axes(mean)
    given: Any = mean.args[0]
    if not count:
        return None, count
    if given.target not in _RESHAPES:
        return given, count
    inner = given.args[0]
    kept = given.meta["val"].shape[-count:] == inner.meta["val"].shape[-count:]
    return (inner if kept else None), count


def _count_last_axes(reduced: fx.Node) -> int:
    """How many axes a mean or sum goes over, 0 unless they are the last ones and are gone then."""
    given: Any
    axes: Any
    given, axes, *others = reduced.args
    rank = given.meta["val"].ndim
    axes = sorted(axis % rank for axis in axes or range(rank))
    last = list(range(rank - len(axes), rank))
    return len(axes) if axes == last and not others and not reduced.kwargs else 0


def _mean_of_shares(graph: fx.Graph, mean: fx.Node) -> None:
    """mean(view(x @ (m / sum(m)))) -> sum(x) / n, for the n shares of a row add up to 1.

    The way back through adaptive average pooling is such a product.
    """
    product, points = _reduced_product(mean)
    if product is None or not _is_divided_by_its_sum(product.args[1]):
        return
    if points != product.meta["val"].shape[1]:
        return
    view: Any = mean.args[0]
    with graph.inserting_before(mean):
        total = _call(graph, aten.sum.dim_IntList, (product.args[0], [-1]))
        sizes = view.args[1][-_count_last_axes(mean) :]
        _replace_reduced(graph, mean, _divided(graph, total, sizes))


def _divided(graph: fx.Graph, total: fx.Node, sizes: Sequence[Any]) -> fx.Node:
    """What adds up to a total over axes of these sizes, as its mean."""
    for size in sizes:
        total = _call(graph, aten.div.Scalar, (total, size))
    return total


def _reduced_product(reduced: fx.Node) -> tuple[Any, Any]:
    """The matrix product of which a mean or sum is taken, as a view, and of how many values each.

    None where it is no such thing. The values lie in a row of the product if they divide it.
    """
    count = _count_last_axes(reduced)
    view: Any = reduced.args[0]
    product = view
    while product.target in _RESHAPES and len(product.users) == 1:
        product = product.args[0]
    if product is view or product.target is not aten.mm.default or not count:
        return None, 0
    return product, math.prod(view.meta["val"].shape[-count:])


def _replace_reduced(graph: fx.Graph, reduced: fx.Node, values: fx.Node) -> None:
    """Put values, in the same order, in the place of a mean or sum over last axes of a view."""
    view: Any = reduced.args[0]
    shape = list(view.args[1][: -_count_last_axes(reduced)])
    reduced.replace_all_uses_with(_call(graph, aten.reshape.default, (values, shape), like=reduced))


def _is_divided_by_its_sum(shares: Any) -> bool:
    if shares.target is not aten.div.Tensor:
        return False
    inside, total = shares.args
    return total.target is aten.sum.dim_IntList and total.args == (inside, [-1], True)


def _replace_mean(graph: fx.Graph, mean: fx.Node, kept: fx.Node, count: int) -> None:
    """Put the same mean, with axes of one point where it was taken, in a mean's place."""
    given: Any = mean.args[0]
    if given.target in _RESHAPES:
        _replace_reduced(graph, mean, kept)
    else:
        axes = list(range(-count, 0))
        mean.replace_all_uses_with(_call(graph, aten.squeeze.dims, (kept, axes)))


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
        shape = tuple(x.meta["val"].shape)
        terms = [term for term in x.args if isinstance(term, fx.Node)]
        alike = [term for term in terms if tuple(term.meta["val"].shape) == shape]
        return len(alike) == 2 and any(map(_can_wait, alike))
    return x.target is aten.convolution.default and _turns_each_point(x)


def _early_mean(graph: fx.Graph, x: Any, count: int) -> fx.Node:
    """The mean of a value over its last axes, kept as ones, taken before what can wait."""
    if not _can_wait(x):
        return _call(graph, aten.mean.dim, (x, list(range(-count, 0)), True))
    if x.target is aten.add.Tensor:
        return _call(graph, x.target, tuple(_early_mean(graph, term, count) for term in x.args))
    if _is_masked_way_back(x):
        return _mean_of_masked_way_back(graph, x)
    given, *how = x.args  # of a convolution, or of a product with a scale
    return _call(graph, x.target, (_early_mean(graph, given, count), *how))


def _is_masked_way_back(x: Any) -> bool:
    """Whether a value is the way back through a strided depthwise convolution, times another."""
    if x.target is not aten.mul.Tensor:
        return False
    back, mask = x.args
    if back.target is not STRIDED_DEPTHWISE or len(back.users) > 1:
        return False
    return isinstance(mask, fx.Node) and mask.meta["val"].shape == x.meta["val"].shape


def _mean_of_masked_way_back(graph: fx.Graph, product: Any) -> fx.Node:
    """mean(D'(g) * mask) -> sum(g * D(mask)) / n, kept as axes of one point.

    D is a convolution with steps and one kernel a channel, and D' the way back through it, which
    would have to put zeros between.
    """
    back, mask = product.args
    grad, weight, sizes, *how = back.args
    dtype = grad.meta["val"].dtype
    if mask.meta["val"].dtype != dtype:
        mask = _call(graph, aten.to.dtype, (mask, dtype))
    groups = weight.meta["val"].shape[0]
    seen = _call(graph, aten.convolution.default, (mask, weight, None, *how, False, [0, 0], groups))
    product = _call(graph, aten.mul.Tensor, (grad, seen))
    mean = _divided(graph, _call(graph, aten.sum.dim_IntList, (product, [-2, -1])), sizes)
    for _ in sizes:
        mean = _call(graph, aten.unsqueeze.default, (mean, -1))
    return mean


def _is_of_channels(scale: Any, count: int) -> bool:
    """Whether a factor is the same at all points of the last axes."""
    return isinstance(scale, fx.Node) and list(scale.meta["val"].shape[-count:]) == [1] * count


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
