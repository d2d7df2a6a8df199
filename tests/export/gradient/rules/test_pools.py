"""Pools of any windows, and the forward rule of adaptive ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given
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
    axes,
    random,
    rectified,
    tied,
)


def pool(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Forward:
    return lambda x: function(rectified(x) + 0.1 * x, *arguments, **options)


def pool_arguments(axes: list[Axis]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Size, kernel, stride and padding; a pool's padding is at most half its kernel."""
    padding = [min(axis.padding, axis.kernel // 2) for axis in axes]
    size = [
        max(axis.size, axis.dilation * (axis.kernel - 1) + 1 - 2 * pad)
        for axis, pad in zip(axes, padding, strict=True)
    ]
    return size, [axis.kernel for axis in axes], [axis.stride for axis in axes], padding


CASES = {
    "max_pool_ties": Case("max_pool2d_with_indices_backward", tied(F.max_pool2d, 3, 2, 1), TWO),
    "max_pool_ceil": Case(
        "max_pool2d_with_indices_backward", tied(F.max_pool2d, 3, 2, ceil_mode=True), TWO
    ),
    "max_pool_dilated": Case(
        "max_pool2d_with_indices_backward", tied(F.max_pool2d, (2, 3), 1, dilation=2), TWO
    ),
    # One length only: PyTorch's own max_pool1d fixes it while it is traced.
    "max_pool_1d": Case("max_pool2d_with_indices_backward", tied(F.max_pool1d, 3, 2, 1), ONE[:1]),
    "max_pool_3d": Case("max_pool3d_with_indices_backward", tied(F.max_pool3d, 2, 1, 1), THREE),
    "adaptive_max_pool": Case(
        "adaptive_max_pool2d_backward", tied(F.adaptive_max_pool2d, (3, 4)), TWO
    ),
    "adaptive_max_pool_3d": Case(
        "adaptive_max_pool3d_backward", tied(F.adaptive_max_pool3d, (2, 3, 1)), THREE
    ),
    "avg_pool": Case("avg_pool2d_backward", pool(F.avg_pool2d, 3, 2, 1), TWO),
    "avg_pool_stride_is_kernel": Case("avg_pool2d_backward", pool(F.avg_pool2d, (2, 3)), TWO),
    "avg_pool_ceil": Case("avg_pool2d_backward", pool(F.avg_pool2d, 3, 2, 1, ceil_mode=True), TWO),
    "avg_pool_ceil_without_pad": Case(
        "avg_pool2d_backward",
        pool(F.avg_pool2d, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        TWO,
    ),
    "avg_pool_without_pad": Case(
        "avg_pool2d_backward", pool(F.avg_pool2d, 3, 1, 1, count_include_pad=False), TWO
    ),
    "avg_pool_divisor": Case(
        "avg_pool2d_backward", pool(F.avg_pool2d, 3, 2, 1, divisor_override=5), TWO
    ),
    "avg_pool_1d": Case("avg_pool2d_backward", pool(F.avg_pool1d, 3, 2, 1), ONE),
    "avg_pool_3d": Case("avg_pool3d_backward", pool(F.avg_pool3d, 2, 2, 1), THREE),
    "adaptive_avg_pool": Case(
        "_adaptive_avg_pool2d_backward", pool(F.adaptive_avg_pool2d, (3, 4)), TWO
    ),
    "adaptive_avg_pool_to_larger": Case(
        "_adaptive_avg_pool2d_backward", pool(F.adaptive_avg_pool2d, (16, 10)), TWO
    ),
    "adaptive_avg_pool_1d": Case(
        "_adaptive_avg_pool2d_backward", pool(F.adaptive_avg_pool1d, 3), ONE
    ),
    "adaptive_avg_pool_3d": Case(
        "_adaptive_avg_pool3d_backward", pool(F.adaptive_avg_pool3d, (2, 3, 4)), THREE
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    assert_exact(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_traced_with_symbolic_sizes(name: str) -> None:
    assert_traced_with_symbolic_sizes(CASES[name])


@given(axes=st.lists(axes(), min_size=1, max_size=3), ceil=st.booleans(), seed=st.integers(0, 99))
def test_max_pool(axes: list[Axis], ceil: bool, seed: int) -> None:
    size, kernel, stride, padding = pool_arguments(axes)
    dilation = [axis.dilation for axis in axes]
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(size) - 1]
    forward = tied(function, kernel, stride, padding, dilation, ceil_mode=ceil)
    x = random(2, 3, *size, seed=seed)
    assume(forward(x).isfinite().all())  # a dilated window may see no point but padding
    assert_rules_give_the_gradient(forward, x)


@given(
    axes=st.lists(axes(dilations=1), min_size=1, max_size=3),
    ceil=st.booleans(),
    include_pad=st.booleans(),
    divisor=st.none() | st.integers(1, 7),
)
def test_average_pool(axes: list[Axis], ceil: bool, include_pad: bool, divisor: int | None) -> None:
    size, kernel, stride, padding = pool_arguments(axes)
    size = [max(lengths) for lengths in zip(size, kernel, strict=True)]  # avg_pool3d insists
    if len(size) == 1:
        forward: Forward = partial(
            F.avg_pool1d,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            ceil_mode=ceil,
            count_include_pad=include_pad,
        )
    else:
        function = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
        forward = partial(
            function,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            ceil_mode=ceil,
            count_include_pad=include_pad,
            divisor_override=divisor,
        )
    assert_rules_give_the_gradient(forward, random(2, 3, *size))


@pytest.mark.parametrize("kind", ["avg", "max"])
@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
def test_adaptive_pools(kind: str, sizes: list[tuple[int, int]]) -> None:
    size, count = (list(values) for values in zip(*sizes, strict=True))
    function = getattr(F, f"adaptive_{kind}_pool{len(size)}d")
    forward = tied(function, tuple(count))
    assert_rules_give_the_gradient(forward, random(2, 3, *size))
