"""Sampling in sums of corners is PyTorch's own, and so are its gradients."""

import pytest
import torch
from torch.nn import functional as F

from camcore.export.gradient.rules.grids import has_corners, sample_corners


@pytest.mark.parametrize("align_corners", [True, False])
def test_values_and_gradients(align_corners: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    # Beyond the border, too.
    grid = 1.3 * (2 * torch.rand(2, 4, 6, 2, generator=generator, dtype=torch.float64) - 1)
    grid.requires_grad_()
    expected = F.grid_sample(x, grid, align_corners=align_corners)
    given = sample_corners(x, grid, align_corners)
    torch.testing.assert_close(given, expected)
    seed = torch.randn(given.shape, generator=generator, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, (x, grid), seed)
    for found, right in zip(torch.autograd.grad(given, (x, grid), seed), wanted, strict=True):
        torch.testing.assert_close(found, right)


def test_other_ways_of_sampling_are_left_alone() -> None:
    assert has_corners(0, 0)
    assert not has_corners(1, 0)
    assert not has_corners(0, 1)
