"""Clamps, and the numbers next to their bounds."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from camcore.export.gradient.rules.clamps import _next_to
from tests.export.rule_cases import TWO, Case, assert_exact, assert_traced_with_symbolic_sizes, tied

CASES = {
    "clamp": Case("hardtanh_backward", lambda x: F.hardtanh(x, -0.5, 0.8), TWO),
    "clamp_at_its_bounds": Case("hardtanh_backward", lambda x: F.relu6(7 * tied(F.relu)(x)), TWO),
    "relu": Case("threshold_backward", F.relu, TWO),
    "relu_at_zero": Case("threshold_backward", lambda x: F.relu(tied(F.relu)(x)), TWO),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    assert_exact(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_traced_with_symbolic_sizes(name: str) -> None:
    assert_traced_with_symbolic_sizes(CASES[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@given(bound=st.floats(-60, 60), other=st.floats(-60, 60))
def test_the_number_next_to_a_bound(dtype: torch.dtype, bound: float, other: float) -> None:
    tiny = torch.finfo(dtype).tiny
    first, second = torch.tensor([bound, other], dtype=dtype)
    assume(first != second and (first == 0 or abs(first) > 2 * tiny))
    expected = torch.nextafter(first, second)
    if first == 0:
        expected = torch.copysign(torch.tensor(tiny, dtype=dtype), second)
    found = _next_to(float(first), other, dtype)
    assert float(torch.tensor(found, dtype=dtype)) == found == float(expected)


def test_the_number_next_to_infinity() -> None:
    largest = torch.finfo(torch.float32).max
    assert _next_to(math.inf, 0.0, torch.float32) == largest
    assert _next_to(-math.inf, 0.0, torch.float32) == -largest
