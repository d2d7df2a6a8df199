"""Stand-ins: operators that stay whole while a gradient is traced, each with a rule of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camcore.export.gradient.rules.axes import along_axis

aten = torch.ops.aten

Rule = Callable[..., Any]


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
        grad = along_axis(axis, grad, resampling_matrix(resample, x, axis, grad.shape, options))
    return grad


def resampling_matrix(
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
