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

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, decomposition_table

from camcore.export.gradient.rules.clamps import hardtanh_backward, threshold_backward
from camcore.export.gradient.rules.convolutions import (
    STRIDED_DEPTHWISE,
    convolution_backward,
    strided_depthwise_input_gradient,
)
from camcore.export.gradient.rules.moves import (
    reflection_pad_backward,
    replication_pad_backward,
    select_backward,
    slice_backward,
)
from camcore.export.gradient.rules.norms import batch_norm_backward, group_norm_backward
from camcore.export.gradient.rules.pools import (
    adaptive_average_pool_backward,
    adaptive_max_pool_backward,
    average_pool_backward,
    max_pool_backward,
)

aten = torch.ops.aten

Rule = Callable[..., Any]


def _own_rules() -> dict[torch._ops.OpOverload, Rule]:
    return {
        aten.convolution_backward.default: convolution_backward,
        aten.native_batch_norm_backward.default: batch_norm_backward,
        aten.native_group_norm_backward.default: group_norm_backward,
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


def _pytorch_rules() -> dict[torch._ops.OpOverload, Rule]:
    """PyTorch's decompositions of backward operators; forward ones stay as the model has them."""
    return {
        operator: rule
        for operator, rule in (core_aten_decompositions() | decomposition_table).items()
        if isinstance(operator, torch._ops.OpOverload) and "backward" in operator._schema.name
    }


# What they do, for when `simplify` has seen them.
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
