"""Gradient rules: what autograd's backward operators are in terms of forward operators.

Autograd records a backward pass in operators such as `convolution_backward`, which neither ONNX nor
TorchScript files can hold everywhere. `RULES` is the decomposition table under which a gradient is
traced: it rewrites each of them, exactly, in forward operators only. Rules written here cover what
PyTorch has no decomposition for, or one that costs more than it needs to; the rest comes from
PyTorch's own table.

Only gradients with respect to activations are ever asked for, so no rule returns the gradient of a
parameter. Sizes may be symbolic: no rule branches on one, unless it is a plain integer.

Notation: G is the gradient that arrives at the operator's output, X its input, I and O the input
and output size along one spatial axis.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, decomposition_table

aten = torch.ops.aten

Rule = Callable[..., Any]
Size = int | torch.SymInt


# Up to this width a product with a matrix is the faster way to put zeros between values.
_SMALL_MAP = 8


def _own_rules() -> dict[torch._ops.OpOverload, Rule]:
    return {
        aten.convolution_backward.default: convolution_backward,
        aten.native_batch_norm_backward.default: batch_norm_backward,
        aten.max_pool2d_with_indices_backward.default: max_pool_backward,
        aten.max_pool3d_with_indices_backward.default: max_pool_backward,
        aten.adaptive_max_pool2d_backward.default: adaptive_max_pool_backward,
        aten.adaptive_max_pool3d_backward.default: adaptive_max_pool_backward,
        aten.avg_pool2d_backward.default: average_pool_backward,
        aten.avg_pool3d_backward.default: average_pool_backward,
        aten._adaptive_avg_pool2d_backward.default: adaptive_average_pool_backward,
        aten._adaptive_avg_pool3d_backward.default: adaptive_average_pool_backward,
        aten.hardtanh_backward.default: hardtanh_backward,
        aten.threshold_backward.default: threshold_backward,
        aten.slice_backward.default: slice_backward,
        aten.select_backward.default: select_backward,
        aten.reflection_pad1d_backward.default: reflection_pad_backward,
        aten.reflection_pad2d_backward.default: reflection_pad_backward,
        aten.reflection_pad3d_backward.default: reflection_pad_backward,
        aten.replication_pad1d_backward.default: replication_pad_backward,
        aten.replication_pad2d_backward.default: replication_pad_backward,
        aten.replication_pad3d_backward.default: replication_pad_backward,
    }


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Input gradient of a convolution of any stride, padding, dilation, groups and rank.

    Shapes: grad (B, Co, *O), x (B, Ci, *I), weight (Co, Ci / groups, *k) -> (B, Ci, *I).
    """
    _parameters_are_frozen("convolution", output_mask)
    rank = x.ndim - 2
    stride, padding, dilation = (per_axis(v, rank) for v in (stride, padding, dilation))
    no_offset = [0] * rank
    if transposed:
        # The adjoint of a transposed convolution is the plain one; output_padding only added zeros
        # at the end.
        full = aten.convolution(
            grad, weight, None, stride, padding, dilation, False, no_offset, groups
        )
        return _crop(full, no_offset, x.shape[2:]), None, None
    reach = _reach(weight, dilation)
    within = all(p <= r for p, r in zip(padding, reach, strict=True))
    once = [1] * rank
    depthwise = groups == weight.shape[0] and weight.shape[1] == 1
    if rank == 2 and stride != once and within and depthwise:
        dx = STRIDED_DEPTHWISE(grad, weight, x.shape[2:], stride, padding, dilation)
        return dx, None, None
    if stride == once and within:
        return _of_stride_one(grad, weight, padding, dilation, groups), None, None
    if rank == 2 and all(r == 0 for r in reach):
        # Windows of one point: a product over the channels, and zeros between its results.
        turned = _turned_kernel(weight, groups)
        dx = aten.convolution(grad, turned, None, once, no_offset, once, False, no_offset, groups)
        return _crop(_with_zeros_between(dx, stride), padding, x.shape[2:]), None, None
    # The transposed convolution without padding gives (O - 1) * stride + reach + 1 values an axis,
    # of which X owned [padding, padding + I). Where the stride did not divide evenly the last ones
    # are missing, and truly zero: no window reached them.
    sizes = zip(x.shape[2:], grad.shape[2:], stride, padding, reach, strict=True)
    extra = [i - ((o - 1) * s + r + 1 - 2 * p) for i, o, s, p, r in sizes]
    if all(isinstance(length, int) for length in extra):
        dx = aten.convolution(grad, weight, None, stride, padding, dilation, True, extra, groups)
        return dx, None, None
    # `output_padding` cannot depend on a dynamic size.
    full = aten.convolution(
        grad, weight, None, stride, no_offset, dilation, True, no_offset, groups
    )
    missing = [max(0, s - 1 - p) for s, p in zip(stride, padding, strict=True)]
    if any(missing):
        full = aten.constant_pad_nd(full, [n for m in reversed(missing) for n in (0, m)], 0.0)
    return _crop(full, padding, x.shape[2:]), None, None


def _of_stride_one(
    grad: Tensor, weight: Tensor, padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """Input gradient of a convolution of stride 1: a plain convolution with the kernel turned
    round, for which runtimes have their fastest code.
    """
    turned = _turned_kernel(weight, groups)
    margin = [r - p for r, p in zip(_reach(weight, dilation), padding, strict=True)]
    once = [1] * len(margin)
    dx: Tensor = aten.convolution(
        grad, turned, None, once, margin, dilation, False, [0] * len(margin), groups
    )
    return dx


def strided_depthwise_input_gradient(
    grad: Tensor,
    weight: Tensor,
    sizes: Sequence[Size],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Input gradient of a convolution with steps and one kernel a channel, of an input of `sizes`.

    As of stride 1, of which the results between were never looked at: for one kernel a channel
    runtimes have much faster code than for the transposed convolution.

    Shapes: grad (B, C, *O), weight (C, 1, *k), sizes I -> (B, C, *I).
    """
    reach = _reach(weight, dilation)
    looked_at = [i + 2 * p - r for i, p, r in zip(sizes, padding, reach, strict=True)]
    spread = _crop(_with_zeros_between(grad, stride), [0, 0], looked_at)
    return _of_stride_one(spread, weight, padding, dilation, len(weight))


def _reach(weight: Tensor, dilation: Sequence[int]) -> list[int]:
    """How far a window's last point is from its first, axis by axis."""
    return [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]


def _turned_kernel(weight: Tensor, groups: int) -> Tensor:
    """(Co, Ci / groups, *k) -> (Ci, Co / groups, *k), reversed along every spatial axis."""
    spatial = list(range(2, weight.ndim))
    kernel = weight.shape[2:]
    if any(k != 1 for k in kernel):
        weight = weight.flip(spatial)
    if groups == 1:
        return weight.transpose(0, 1)
    if groups == weight.shape[0] and weight.shape[1] == 1:
        return weight  # depthwise: one kernel a channel, nothing to exchange
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], *kernel)
    return split.transpose(1, 2).reshape(groups * weight.shape[1], -1, *kernel)


def _with_zeros_between(values: Tensor, steps: Sequence[int]) -> Tensor:
    """(B, C, H, W) -> (B, C, H sh, W sw): each value, then zeros to the right of it and below.

    As copies of each value, all but the first of which a mask clears: runtimes do both in large
    steps, where padding every single value is slow. Small maps are multiplied by a matrix of zeros
    and ones, which puts zero rows in as well.
    """
    height, width = values.shape[2:]
    down, right = steps
    rows, columns = height * down, width * right
    if isinstance(width, int) and width <= _SMALL_MAP:
        places = right * torch.arange(width, device=values.device)
        matrix = torch.arange(columns * down, device=values.device) == places[:, None]
        return (values @ matrix.to(values.dtype)).reshape(*values.shape[:2], rows, columns)
    copies: Tensor = aten.upsample_nearest2d.default(values, [rows, columns])
    first_row, first_column = (
        torch.arange(size, device=values.device) % step == 0
        for size, step in zip(copies.shape[2:], steps, strict=True)
    )
    return copies * (first_row[:, None] & first_column).to(values.dtype)


def _crop(full: Tensor, start: Sequence[int], sizes: Sequence[Size]) -> Tensor:
    """The part of `full` that begins at `start` and has these spatial sizes."""
    for axis, (first, wanted) in enumerate(zip(start, sizes, strict=True), 2):
        given = full.shape[axis]
        whole = isinstance(wanted, int) and isinstance(given, int) and wanted == given
        if not whole:
            full = full.narrow(axis, first, wanted)
    return full


def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor | None,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Input gradient of batch norm with fixed statistics: G weight / sqrt(running_var + eps).

    Instance norm arrives here as well: one batch, whose channels are those of all images, with
    statistics of its own.
    """
    _parameters_are_frozen("batch norm", output_mask)
    per_channel = (-1, *[1] * (grad.ndim - 2))
    if not train and running_var is not None:
        scale = torch.rsqrt(running_var + eps)
        if weight is not None:
            scale = scale * weight
        return grad * scale.reshape(per_channel), None, None
    if not isinstance(x.shape[0], int) or x.shape[0] != 1:
        raise NotImplementedError(
            "batch norm with batch statistics mixes the images of a batch: no image has a gradient "
            "of its own"
        )
    if weight is not None:
        grad = grad * weight.reshape(per_channel)
    space = list(range(2, x.ndim))
    centred = x - x.mean(space, keepdim=True)
    inverse_deviation = torch.rsqrt((centred * centred).mean(space, keepdim=True) + eps)
    normed = centred * inverse_deviation
    along = (grad * normed).mean(space, keepdim=True)
    grad = grad - grad.mean(space, keepdim=True) - normed * along
    return grad * inverse_deviation, None, None


def max_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Input gradient of max pooling: each G goes to the position that won; overlaps add up."""
    return adaptive_max_pool_backward(grad, x, indices)


def adaptive_max_pool_backward(grad: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    """As `max_pool_backward`; `indices` count positions of X's flattened spatial axes."""
    flat = grad.new_zeros(x.shape).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), grad.flatten(2)).reshape(x.shape)


def average_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Input gradient of average pooling, as one matrix product an axis.

    Along an axis, pooling is Y = M X with M[o, i] = 1 / divisor for the i inside window o, so dX =
    M^T G. `ceil_mode` needs nothing of its own: it only changes O, which G knows.
    """
    rank = x.ndim - 2
    stride = stride or kernel_size
    kernel_size, stride, padding = (per_axis(v, rank) for v in (kernel_size, stride, padding))
    for axis, (kernel, step, pad) in enumerate(zip(kernel_size, stride, padding, strict=True), 2):
        size = x.shape[axis]
        start = torch.arange(grad.shape[axis], device=grad.device) * step - pad
        end = torch.clamp(start + kernel, max=size + pad)
        if divisor_override is not None:
            divisor = torch.ones_like(start)
        elif count_include_pad:
            divisor = end - start
        else:
            divisor = torch.clamp(end, max=size) - torch.clamp(start, min=0)
        grad = _along(axis, grad, _pooling_matrix(start, end, divisor, size, grad.dtype))
    return grad if divisor_override is None else grad / divisor_override


def adaptive_average_pool_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Input gradient of adaptive average pooling, with windows as in `_adaptive_windows`.

    As one product over all of space: G of each window goes to its points in equal shares. They are
    written as what is divided by its own sum, by which `simplify` sees that they add up to 1.
    """
    sizes, counts = x.shape[2:], grad.shape[2:]
    if all(isinstance(i, int) and i == o for i, o in zip(sizes, counts, strict=True)):
        return grad  # each window is one point
    windows = [_adaptive_windows(i, o, grad.device) for i, o in zip(sizes, counts, strict=True)]
    inside, *others = (
        _inside(*each, i).to(grad.dtype) for each, i in zip(windows, sizes, strict=True)
    )
    for along in others:
        both = inside[:, None, :, None] * along[:, None]
        inside = both.flatten(2).flatten(0, 1)
    shares = inside / inside.sum(-1, keepdim=True)
    return (grad.reshape(-1, inside.shape[0]) @ shares).reshape(*grad.shape[:2], *sizes)


def _adaptive_windows(size: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where window o starts and ends: floor(o I / O) and ceil((o + 1) I / O)."""
    window = torch.arange(count, device=device)
    return (window * size) // count, ((window + 1) * size + count - 1) // count


def _pooling_matrix(
    start: Tensor, end: Tensor, divisor: Tensor, size: int, dtype: torch.dtype
) -> Tensor:
    """M (O, I) of Y = M X: M[o, i] = 1 / divisor[o] for start[o] <= i < end[o], otherwise 0."""
    return _inside(start, end, size).to(dtype) / divisor[:, None].to(dtype)


def _inside(start: Tensor, end: Tensor, size: Size) -> Tensor:
    """Whether start[o] <= i < end[o], (O, I)."""
    position = torch.arange(size, device=start.device)
    return (position >= start[:, None]) & (position < end[:, None])


def _along(axis: int, values: Tensor, matrix: Tensor) -> Tensor:
    """The product of an axis of `values`, of size O, with `matrix` (O, I)."""
    if axis == values.ndim - 1:
        return values @ matrix
    if axis == values.ndim - 2:
        return matrix.transpose(0, 1) @ values
    return (values.movedim(axis, -1) @ matrix).movedim(-1, axis)


def hardtanh_backward(grad: Tensor, x: Tensor, lowest: float, highest: float) -> Tensor:
    """Input gradient of a clamp (ReLU6 among them): G inside the bounds, 0 on and beyond them.

    Told from the clamped value, which is there anyway, so that runtimes can still fuse the clamp
    with the convolution before it; and by clamping that again, to the numbers next to the bounds,
    which takes fewer operators than two comparisons. Next to 0 is the smallest normal number:
    smaller ones are 0 wherever denormals are flushed.
    """
    y: Tensor = aten.hardtanh(x, lowest, highest)
    inside = _next_to(lowest, highest, x.dtype), _next_to(highest, lowest, x.dtype)
    return grad * (y.clamp(*inside) == y)


def _next_to(bound: float, other: float, dtype: torch.dtype) -> float:
    """The normal number of a type that is nearest to a bound, on the side of the other one.

    In plain Python, for what is asked of tensors while a graph is traced ends up in the graph.
    """
    info = torch.finfo(dtype)
    up = math.copysign(1.0, other - bound)
    if bound == 0:
        return up * info.tiny
    if math.isinf(bound):
        return up * -info.max
    mantissa, exponent = math.frexp(bound)  # from 0.5 to below 1, in steps of eps / 2
    count = round(2 * mantissa / info.eps)
    if abs(count + up) * info.eps < 1:  # towards 0 from a power of two, where steps are shorter
        count, exponent = 2 * count, exponent - 1
    return math.ldexp((count + up) * info.eps / 2, exponent)


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Input gradient of ReLU, told from its input or its output: G where it is above the threshold.

    As a product, which runtimes do faster than a choice between two arrays.
    """
    return grad * (x > threshold)


def slice_backward(
    grad: Tensor, input_sizes: Sequence[int], dim: int, start: int, end: int, step: int
) -> Tensor:
    """Input gradient of a slice: G with zeros where the slice did not look.

    As padding, which runtimes do in one pass, where PyTorch's own rule scatters.
    """
    dim %= grad.ndim
    size, count = input_sizes[dim], grad.shape[dim]
    if step != 1:
        grad = _spread(grad, dim, step).narrow(dim, 0, (count - 1) * step + 1)
    # A slice may begin before the first element, or behind the last.
    before = torch.sym_max(start + size, 0) if start < 0 else torch.sym_min(start, size)
    after = size - before - grad.shape[dim]
    return _pad(grad, dim, before, after)


def select_backward(grad: Tensor, input_sizes: Sequence[int], dim: int, index: int) -> Tensor:
    """Input gradient of picking one index along an axis: G there, zeros elsewhere."""
    dim %= len(input_sizes)
    size = input_sizes[dim]
    before = index + size if index < 0 else index
    return _pad(grad.unsqueeze(dim), dim, before, size - before - 1)


def reflection_pad_backward(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """Input gradient of padding with a mirror image, as one matrix product an axis."""

    def mirrored(position: Tensor, size: Size) -> Tensor:
        from_the_end = (position.abs() - (size - 1)).abs()
        return -from_the_end + (size - 1)

    return _padding_backward(grad, x, padding, mirrored)


def replication_pad_backward(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """Input gradient of padding with the value at the border, as one matrix product an axis."""

    def nearest(position: Tensor, size: Size) -> Tensor:
        return torch.clamp(position, min=0, max=size - 1)

    return _padding_backward(grad, x, padding, nearest)


def _padding_backward(
    grad: Tensor, x: Tensor, padding: Sequence[int], source: Callable[[Tensor, Size], Tensor]
) -> Tensor:
    """G of each position goes to the point of X that it was copied from.

    `source` tells that point from the position, which is below 0 or from I on in the padding.
    """
    for n, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True), 1):
        axis = x.ndim - n
        size = x.shape[axis]
        position = torch.arange(size + before + after, device=grad.device) - before
        copied = source(position, size)[:, None] == torch.arange(size, device=grad.device)
        grad = _along(axis, grad, copied.to(grad.dtype))
    return grad


def _spread(values: Tensor, dim: int, step: int) -> Tensor:
    """Every value of an axis with step - 1 zeros behind it: size n becomes n step."""
    if step == 1:
        return values
    # (..., n, ...) -> (..., n, step, ...) -> (..., n * step, ...)
    pad = _pad_at(values.ndim + 1, dim + 1, 0, step - 1)
    spread: Tensor = aten.constant_pad_nd(values.unsqueeze(dim + 1), pad, 0.0)
    return spread.flatten(dim, dim + 1)


def _pad(grad: Tensor, dim: int, before: Size, after: Size) -> Tensor:
    padded: Tensor = aten.constant_pad_nd(grad, _pad_at(grad.ndim, dim, before, after), 0.0)
    return padded


def _pad_at(rank: int, dim: int, before: Size, after: Size) -> list[Size]:
    """The argument of `constant_pad_nd`, which counts axes from the last, for one axis."""
    return [0, 0] * (rank - 1 - dim) + [before, after]


def per_axis(values: Sequence[int], rank: int) -> list[int]:
    """ATen lets one value stand for all axes."""
    return list(values) * rank if len(values) == 1 else list(values)


def _parameters_are_frozen(operator: str, output_mask: Sequence[bool]) -> None:
    if any(output_mask[1:]):
        raise AssertionError(
            f"{operator}: a parameter asks for its gradient; the tail must be frozen"
        )


def _pytorch_rules() -> dict[torch._ops.OpOverload, Rule]:
    """PyTorch's decompositions of backward operators; forward ones stay as the model has them."""
    return {
        operator: rule
        for operator, rule in (core_aten_decompositions() | decomposition_table).items()
        if isinstance(operator, torch._ops.OpOverload) and "backward" in operator._schema.name
    }


def _as_one_operator(name: str, signature: str, rule: Rule) -> torch._ops.OpOverload:
    """A rule that stays one operator in the graph, for `simplify` to see what it is."""
    torch.library.define(f"camcore::{name}", signature)
    torch.library.impl(f"camcore::{name}", "CompositeExplicitAutograd")(rule)
    torch.library.register_fake(f"camcore::{name}")(rule)
    operator: torch._ops.OpOverload = getattr(torch.ops.camcore, name).default
    return operator


STRIDED_DEPTHWISE = _as_one_operator(
    "strided_depthwise_input_gradient",
    "(Tensor grad, Tensor weight, SymInt[] sizes, int[] stride, int[] padding, int[] dilation)"
    " -> Tensor",
    strided_depthwise_input_gradient,
)
# What they do, for when they have been seen.
OWN_OPERATORS: dict[torch._ops.OpOverload, Rule] = {
    STRIDED_DEPTHWISE: strided_depthwise_input_gradient
}

RULES: dict[torch._ops.OpOverload, Rule] = _pytorch_rules() | _own_rules()

# For gradients that may be infinite, which a product with zero makes NaN of: there PyTorch's rules,
# slower for a choice between two arrays, stop them as autograd does.
RULES_FOR_INFINITY = RULES | {
    operator: decomposition_table[operator]
    for operator in (aten.threshold_backward.default, aten.hardtanh_backward.default)
}


def _kept(operator: torch._ops.OpOverload, input_gradient: Rule) -> torch._ops.OpOverload:
    """A stand-in that autograd takes for one opaque operator with a rule of its own.

    The rule gets the stand-in, G and the operator's arguments. Autograd looks through composite
    operators: a linear layer would be traced as a product with a transposed copy of its weight, and
    the file would hold both; resizing would be traced as gathers and scatters. Behind a stand-in an
    operator stays as it is.
    """
    short = f"{operator._schema.name.removeprefix('aten::')}_{operator._overloadname}"
    name = f"camcore::{short}"
    torch.library.define(name, "(" + str(operator._schema).partition("(")[2])
    torch.library.impl(name, "CompositeExplicitAutograd")(lambda *arguments: operator(*arguments))
    torch.library.register_fake(name)(lambda *arguments: operator(*arguments))
    stand_in: torch._ops.OpOverload = getattr(torch.ops.camcore, short).default

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.arguments = inputs

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        none = [None] * (len(ctx.arguments) - 1)
        return input_gradient(stand_in, grad, *ctx.arguments), *none

    torch.library.register_autograd(name, backward, setup_context=setup)
    return stand_in


def linear_input_gradient(
    linear: Rule, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Input gradient of a linear layer: G W, (..., N) (N, C) -> (..., C), W as it is stored."""
    return grad @ weight


def resampling_input_gradient(
    resample: Rule,
    grad: Tensor,
    x: Tensor,
    output_size: Sequence[int] | None,
    *options: Any,
) -> Tensor:
    """Input gradient of a separable interpolation of (B, C, H, W), as one matrix product an axis.

    Resampling is linear along each axis, Y = M X, and M is what the operator makes of the identity
    matrix: any interpolation and any alignment of corners has the same rule, dX = M^T G.
    """
    for axis in (2, 3):
        grad = _along(axis, grad, _resampling_matrix(resample, x, axis, grad.shape, options))
    return grad


def _resampling_matrix(
    resample: Rule, x: Tensor, axis: int, shape: Sequence[int], options: Sequence[Any]
) -> Tensor:
    """What an interpolation of x (B, C, H, W) to another shape does along an axis, (O, I)."""
    *flags, scales = options
    identity = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)[None, None]
    if scales is None:
        matrix = resample(identity, [shape[axis], x.shape[axis]], *flags, None)
    else:
        matrix = resample(identity, None, *flags, [scales[axis - 2], 1.0])
    along: Tensor = matrix[0, 0]
    return along


KEPT: dict[torch._ops.OpOverload, torch._ops.OpOverload] = {
    aten.linear.default: _kept(aten.linear.default, linear_input_gradient)
} | {
    operator: _kept(operator, resampling_input_gradient)
    for operator in (
        aten.upsample_nearest2d.vec,
        aten._upsample_nearest_exact2d.vec,
        aten.upsample_bilinear2d.vec,
        aten._upsample_bilinear2d_aa.vec,
        aten.upsample_bicubic2d.vec,
        aten._upsample_bicubic2d_aa.vec,
    )
}


def _adaptive_average_pool(x: Tensor, output_size: Sequence[int]) -> Any:
    """Adaptive average pooling of an input of free size, as one matrix product an axis.

    Exporters unroll the operator for the example's size, and the file is wrong for any other.
    """
    sizes = x.shape[x.ndim - len(output_size) :]
    if all(count == 1 for count in output_size) or all(isinstance(size, int) for size in sizes):
        return NotImplemented
    for axis, (size, count) in enumerate(zip(sizes, output_size, strict=True), x.ndim - len(sizes)):
        start, end = _adaptive_windows(size, count, x.device)
        x = _along(axis, x, _pooling_matrix(start, end, end - start, size, x.dtype).transpose(0, 1))
    return x


POOLS = (
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    aten._adaptive_avg_pool3d.default,
)

# Forward operators that exporters get wrong when a size is free.
FREE_SIZE_RULES: dict[torch._ops.OpOverload, Rule] = dict.fromkeys(POOLS, _adaptive_average_pool)


def _folded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *options: Any,
    **named_options: Any,
) -> Any:
    """Attention over (..., L, E), with what leads folded into a batch and heads."""
    batch = query.shape[:-3]
    if query.ndim == 4 or key.shape[:-3] != batch or value.shape[:-3] != batch:
        return NotImplemented

    def fold(x: Tensor) -> Tensor:
        return x.unsqueeze(0) if x.ndim == 3 else x.flatten(0, -4)

    if mask is not None and mask.ndim > 2:
        mask = fold(mask.expand(*query.shape[:-2], *mask.shape[-2:]))
    attended = aten.scaled_dot_product_attention(
        fold(query), fold(key), fold(value), mask, *options, **named_options
    )
    return attended.reshape(*query.shape[:-1], value.shape[-1])


def _cubic_resampling(x: Tensor, output_size: Sequence[int] | None, *options: Any) -> Any:
    """Cubic interpolation of (B, C, H, W) between fixed sizes, as one matrix product an axis.

    onnxruntime's own, on the CPU, takes one point after the other: fifty times as long. What has
    one channel stays as it is, and the matrices are made of such.
    """
    resample = aten.upsample_bicubic2d.vec
    if x.shape[1] == 1:
        return NotImplemented
    shape = resample(x[:, :1], output_size, *options).shape
    if not all(isinstance(size, int) for size in (*x.shape[2:], *shape[2:])):
        return NotImplemented
    for axis in (2, 3):
        matrix = _resampling_matrix(resample, x, axis, shape, options)
        x = _along(axis, x, matrix.transpose(0, 1))
    return x


def _times_a_size(x: Tensor, factor: Any) -> Any:
    """A product with a number that follows from free sizes, as gradients of variances have it."""
    if isinstance(factor, int | float):
        return NotImplemented
    return x * torch.scalar_tensor(factor, dtype=x.dtype, device=x.device)


# Forward operators that the ONNX exporter, or onnxruntime, takes well in one form only.
ONNX_RULES: dict[torch._ops.OpOverload, Rule] = {
    aten.mul.Scalar: _times_a_size,
    aten.scaled_dot_product_attention.default: _folded_attention,
    aten.upsample_bicubic2d.vec: _cubic_resampling,
}
