"""Operators that stay whole: linear layers and resampling."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from camcore.export.gradient.rules.stand_ins import KEPT
from tests.export.rule_cases import ATOL, Forward, Shape, aten, gradient, operators, random, traced


def resample(operator: Any, size: Any, factors: Any, corners: tuple[bool, ...]) -> Forward:
    return lambda x: operator(x, size, *corners, factors)


# What is kept whole, and whether it has an argument for the alignment of corners.
RESAMPLING = {
    aten.upsample_nearest2d.vec: False,
    aten._upsample_nearest_exact2d.vec: False,
    aten.upsample_bilinear2d.vec: True,
    aten._upsample_bilinear2d_aa.vec: True,
    aten.upsample_bicubic2d.vec: True,
    aten._upsample_bicubic2d_aa.vec: True,
}
MODES = [(op, (c,)) for op, aligns in RESAMPLING.items() if aligns for c in (True, False)] + [
    (op, ()) for op, aligns in RESAMPLING.items() if not aligns
]
modes = pytest.mark.parametrize(("operator", "corners"), MODES)


def test_every_kept_operator_has_a_test() -> None:
    assert set(KEPT) == {aten.linear.default, *RESAMPLING}


def adjoint(forward: Forward, x: Tensor) -> Tensor:
    """The gradient of a linear operator that works image by image, from its matrix.

    PyTorch's own gradient of antialiased resizing is not that of its forward pass at width 1.
    """
    size = x.shape[1:].numel()
    y = forward(x)
    seed = (3 * y + 1).sin()
    matrix = forward(torch.eye(size, dtype=x.dtype).reshape(size, *x.shape[1:])).flatten(1)
    return (seed.flatten(1) @ matrix.T).reshape(x.shape)


def changes_size(size: Shape, factors: tuple[float, float]) -> bool:
    """Where a factor leaves a size as it is, PyTorch copies, unless the other axis changes."""
    return all(f == 1 or int(n * f) != n for n, f in zip(size, factors, strict=True))


@modes
@given(
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    target=st.tuples(st.integers(2, 15), st.integers(2, 15))
    | st.tuples(st.floats(1, 3), st.floats(1, 3)),
)
def test_resampling(operator: Any, corners: tuple[bool, ...], size: Shape, target: Any) -> None:
    by_size = isinstance(target[0], int)
    assume(by_size or changes_size(size, target))
    arguments = (target, None, corners) if by_size else (None, target, corners)
    x = random(2, 2, *size)
    given = gradient(resample(KEPT[operator], *arguments), x)
    expected = adjoint(resample(operator, *arguments), x)
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=ATOL)


TARGETS = [((13, 5), None), (None, (2.0, 3.0)), (None, (0.6, 1.5))]


# Each mode with one target in turn, the others if slow.
@pytest.mark.parametrize(("operator", "corners", "target"), [
    pytest.param(*mode, target, marks=[] if n % len(TARGETS) == m else pytest.mark.slow)
    for n, mode in enumerate(MODES)
    for m, target in enumerate(TARGETS)
])  # fmt: skip
def test_resampling_traced(operator: Any, corners: tuple[bool, ...], target: Any) -> None:
    graph = traced(resample(KEPT[operator], *target, corners), random(2, 4, 15, 13))
    assert not [target for target in operators(graph) if "backward" in str(target)]
    for shape in ((2, 4, 15, 13), (3, 4, 8, 29), (1, 4, 22, 12)):
        x = random(*shape)
        expected = gradient(resample(operator, *target, corners), x)
        torch.testing.assert_close(graph(x), expected, rtol=1e-9, atol=ATOL)


@pytest.mark.parametrize("shape", [(2, 5), (4, 5), (2, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_kept_whole(shape: Shape, bias: bool) -> None:
    """One operator forwards, one product with the weight as it is stored backwards."""
    arguments = [random(7, 5), random(7) if bias else None]
    stand_in = KEPT[aten.linear.default]
    x = random(*shape)
    graph = traced(lambda x: stand_in(x, *arguments), x, mode="real")
    expected = gradient(lambda x: F.linear(x, *arguments), x)
    torch.testing.assert_close(graph(x), expected, rtol=1e-9, atol=ATOL)
    torch.testing.assert_close(stand_in(x, *arguments), F.linear(x, *arguments))
    assert not operators(graph) & {aten.t.default, aten.transpose.int, aten.permute.default}
