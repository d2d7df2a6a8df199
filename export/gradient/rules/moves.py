"""Rules of what moves values and computes nothing: slices, selections, padding."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from camcore.export.gradient.rules.axes import Size, along_axis

aten = torch.ops.aten


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
        grad = along_axis(axis, grad, copied.to(grad.dtype))
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
