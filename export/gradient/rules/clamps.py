"""Rules of ReLU and other clamps."""

import math

import torch
from torch import Tensor

aten = torch.ops.aten


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
