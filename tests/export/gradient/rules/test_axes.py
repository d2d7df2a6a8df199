"""Products along one axis, parts of one, and parameters that must not ask for gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from camcore.export.gradient.rules.axes import along_axis, crop
from tests.export.rule_cases import (
    ATOL,
    MEAN,
    VARIANCE,
    Rules,
    random,
)

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(shape=shapes, size=st.integers(1, 6), data=st.data())
def test_a_product_along_an_axis(shape: list[int], size: int, data: st.DataObject) -> None:
    """Each line of values along the axis, times the matrix."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    values, matrix = random(*shape), random(shape[axis], size, seed=1)
    found = along_axis(axis, values, matrix)
    expected = torch.tensordot(values, matrix, dims=([axis], [0])).movedim(-1, axis)
    torch.testing.assert_close(found, expected, rtol=0, atol=ATOL)


@given(
    parts=st.lists(st.tuples(*[st.integers(0, 3)] * 2, st.integers(1, 4)), min_size=1, max_size=3)
)
def test_a_part(parts: list[tuple[int, int, int]]) -> None:
    """What is left out before and behind each spatial axis, and what remains."""
    full = random(2, 3, *(sum(part) for part in parts))
    found = crop(full, [before for before, *_ in parts], [wanted for *_, wanted in parts])
    places = [slice(before, before + wanted) for before, _, wanted in parts]
    assert torch.equal(found, full[:, :, *places])
    nothing_left_out = not any(before + behind for before, behind, _ in parts)
    assert (found is full) == nothing_left_out


@pytest.mark.parametrize("operator", ["convolution", "batch norm"])
def test_a_parameter_that_asks_for_its_gradient_is_refused(operator: str) -> None:
    weight = random(4, 4, 1, 1).requires_grad_()

    def forward(x: Tensor) -> Tensor:
        if operator == "convolution":
            return F.conv2d(x, weight)
        return F.batch_norm(x, MEAN, VARIANCE, weight[:, 0, 0, 0])

    x = random(2, 4, 5, 5).requires_grad_()
    with pytest.raises(AssertionError, match=f"{operator}: .*frozen"), Rules():
        torch.autograd.grad(forward(x).sum(), [x, weight])
