"""Rules of pooling, and adaptive pooling of free sizes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camcore.export.gradient.rules.axes import Size, along_axis
from camcore.export.trace.graphs import per_axis

aten = torch.ops.aten

POOLS = (
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    aten._adaptive_avg_pool3d.default,
)


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
        grad = along_axis(axis, grad, _pooling_matrix(start, end, divisor, size, grad.dtype))
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


def adaptive_average_pool(x: Tensor, output_size: Sequence[int]) -> Any:
    """Adaptive average pooling of an input of free size, as one matrix product an axis.

    Exporters unroll the operator for the example's size, and the file is wrong for any other.
    """
    sizes = x.shape[x.ndim - len(output_size) :]
    if all(count == 1 for count in output_size) or all(isinstance(size, int) for size in sizes):
        return NotImplemented
    for axis, (size, count) in enumerate(zip(sizes, output_size, strict=True), x.ndim - len(sizes)):
        start, end = _adaptive_windows(size, count, x.device)
        x = along_axis(
            axis, x, _pooling_matrix(start, end, end - start, size, x.dtype).transpose(0, 1)
        )
    return x


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
