"""Forms: forward operators that exporters or runtimes take well in one form only."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camcore.export.gradient.rules import Rule
from camcore.export.gradient.rules.axes import along_axis
from camcore.export.gradient.rules.pools import POOLS, adaptive_average_pool
from camcore.export.gradient.rules.stand_ins import resampling_matrix

aten = torch.ops.aten


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
        matrix = resampling_matrix(resample, x, axis, shape, options)
        x = along_axis(axis, x, matrix.transpose(0, 1))
    return x


def _times_a_size(x: Tensor, factor: Any) -> Any:
    """A product with a number that follows from free sizes, as gradients of variances have it."""
    if isinstance(factor, int | float):
        return NotImplemented
    return x * torch.scalar_tensor(factor, dtype=x.dtype, device=x.device)


# Forward operators that exporters get wrong when a size is free.
FREE_SIZE_RULES: dict[torch._ops.OpOverload, Rule] = dict.fromkeys(POOLS, adaptive_average_pool)

# Forward operators that the ONNX exporter, or onnxruntime, takes well in one form only.
ONNX_RULES: dict[torch._ops.OpOverload, Rule] = {
    aten.mul.Scalar: _times_a_size,
    aten.scaled_dot_product_attention.default: _folded_attention,
    aten.upsample_bicubic2d.vec: _cubic_resampling,
}
