"""Convolutions of any kernel, stride, padding, dilation and groups."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.export.rule_cases import (
    ONE,
    THREE,
    TWO,
    Axis,
    Case,
    Forward,
    assert_exact,
    assert_rules_give_the_gradient,
    assert_traced_with_symbolic_sizes,
    aten,
    axes,
    random,
)


def conv(*kernel: int, channels: int = 4, **options: Any) -> Forward:
    """A convolution of `channels` channels to 6, or as many as groups want."""
    groups = options.get("groups", 1)
    out = channels if groups == channels else 6
    weight = random(out, channels // groups, *kernel, seed=2)
    function = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    return lambda x: function(x, weight, **options)


def conv_transpose(*kernel: int, channels: int = 4, **options: Any) -> Forward:
    weight = random(channels, 3, *kernel, seed=2)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(kernel) - 1]
    return lambda x: function(x, weight, **options)


CONVOLUTION = "convolution_backward"
CASES = {
    "conv": Case(CONVOLUTION, conv(3, 3, padding=1), TWO),
    "conv_even_kernel": Case(CONVOLUTION, conv(4, 2, padding=(1, 0)), TWO),
    "conv_strided": Case(CONVOLUTION, conv(3, 3, stride=2, padding=1), TWO),
    "conv_stride_beyond_kernel": Case(CONVOLUTION, conv(1, 2, stride=3), TWO),
    # At the first size nothing is cropped, which a trace may take for the rule.
    "conv_stride_without_crop": Case(
        CONVOLUTION, conv(1, 1, stride=2), ((2, 4, 8, 10), (3, 4, 9, 7), (1, 4, 5, 6))
    ),
    "conv_stride_one_axis": Case(CONVOLUTION, conv(3, 5, stride=(1, 3), padding=(2, 1)), TWO),
    "conv_padding_beyond_reach": Case(CONVOLUTION, conv(2, 1, padding=(3, 2)), TWO),
    "conv_padding_beyond_reach_strided": Case(CONVOLUTION, conv(3, 1, stride=2, padding=4), TWO),
    "conv_dilated": Case(CONVOLUTION, conv(3, 2, dilation=(2, 3), padding=(2, 1)), TWO),
    "conv_dilated_strided": Case(CONVOLUTION, conv(3, 3, dilation=2, stride=3, padding=1), TWO),
    "conv_groups": Case(CONVOLUTION, conv(3, 3, groups=2, padding=1), TWO),
    "conv_groups_strided": Case(CONVOLUTION, conv(3, 3, groups=2, stride=2), TWO),
    "conv_depthwise": Case(CONVOLUTION, conv(3, 5, groups=4, padding=(1, 2)), TWO),
    "conv_depthwise_strided": Case(CONVOLUTION, conv(3, 3, groups=4, stride=2, padding=1), TWO),
    "conv_1d": Case(CONVOLUTION, conv(4, stride=3, padding=1), ONE),
    "conv_3d": Case(CONVOLUTION, conv(3, 2, 1, stride=(2, 1, 3), padding=(1, 0, 1)), THREE),
    "conv_transposed": Case(CONVOLUTION, conv_transpose(3, 2, stride=2, padding=1), TWO),
    "conv_transposed_output_padding": Case(
        CONVOLUTION, conv_transpose(3, 3, stride=3, padding=1, output_padding=(1, 2)), TWO
    ),
    "conv_transposed_1d": Case(CONVOLUTION, conv_transpose(5, dilation=2, output_padding=1), ONE),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    assert_exact(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_traced_with_symbolic_sizes(name: str) -> None:
    assert_traced_with_symbolic_sizes(CASES[name])


@given(
    axes=st.lists(axes(), min_size=1, max_size=3),
    groups=st.sampled_from([1, 2, 4]),
    width=st.integers(1, 2),
    batch=st.integers(1, 3),
)
def test_convolution(axes: list[Axis], groups: int, width: int, batch: int) -> None:
    size, kernel, stride, padding, dilation = (list(values) for values in zip(*axes, strict=True))
    weight = random(width * groups, 4 // groups, *kernel, seed=2)

    def forward(x: Tensor) -> Tensor:
        return aten.convolution(
            x, weight, None, stride, padding, dilation, False, [0] * len(size), groups
        )

    assert_rules_give_the_gradient(forward, random(batch, 4, *size))


@given(
    axes=st.lists(axes(), min_size=1, max_size=3),
    groups=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
def test_transposed_convolution(axes: list[Axis], groups: int, data: st.DataObject) -> None:
    size, kernel, stride, _, dilation = (list(values) for values in zip(*axes, strict=True))
    extra = [
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    ]
    # Padding takes away from a transposed convolution's output, of which something must remain.
    full = [(axis.size - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1 for axis in axes]
    padding = [min(axis.padding, (f - 1) // 2) for axis, f in zip(axes, full, strict=True)]
    weight = random(4, 2, *kernel, seed=2)

    def forward(x: Tensor) -> Tensor:
        return aten.convolution(x, weight, None, stride, padding, dilation, True, extra, groups)

    assert_rules_give_the_gradient(forward, random(2, 4, *size))
