"""Rules of convolutions: the input gradient of a convolution is a convolution."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camcore.export.gradient.rules.axes import Size, check_frozen, crop
from camcore.export.trace.graphs import per_axis

aten = torch.ops.aten

# Up to this width a product with a matrix is the faster way to put zeros between values.
_SMALL_MAP = 8


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
    check_frozen("convolution", output_mask)
    rank = x.ndim - 2
    stride, padding, dilation = (per_axis(v, rank) for v in (stride, padding, dilation))
    no_offset = [0] * rank
    if transposed:
        # The adjoint of a transposed convolution is the plain one; output_padding only added zeros
        # at the end.
        full = aten.convolution(
            grad, weight, None, stride, padding, dilation, False, no_offset, groups
        )
        return crop(full, no_offset, x.shape[2:]), None, None
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
        return crop(_with_zeros_between(dx, stride), padding, x.shape[2:]), None, None
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
    return crop(full, padding, x.shape[2:]), None, None


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
    spread = crop(_with_zeros_between(grad, stride), [0, 0], looked_at)
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


def _as_one_operator(name: str, signature: str, rule: Callable[..., Any]) -> torch._ops.OpOverload:
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
