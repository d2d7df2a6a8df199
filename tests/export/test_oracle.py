"""The helpers that compare can fail, and the oracle knows a case that is worked out by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.export.oracle import Result, assert_follows, assert_same, explain_by_hand


class Sum(nn.Module):
    """Scores s and -s, s the mean of 2 x over channels and space."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        s = self.twice(2 * x).mean((1, 2, 3))
        return torch.stack([s, -s], dim=1)


IMAGE = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])


def test_by_hand() -> None:
    """The map of class 0 is the image, stretched to [0, 1]; that of class 1 negative, so zero."""
    given = explain_by_hand(Sum(), "twice", IMAGE, torch.tensor([[-1, 1]]))
    np.testing.assert_allclose(given.scores, [[3.5, -3.5]])
    np.testing.assert_array_equal(given.classes, [[0, 1]])
    np.testing.assert_allclose(given.saliency_map[0, 0], [[0, 0.25], [0.5, 1]], atol=1e-6)
    np.testing.assert_array_equal(given.saliency_map[0, 1], np.zeros((2, 2)))


@pytest.mark.parametrize("changed", Result._fields)
def test_a_difference_is_seen(changed: str) -> None:
    ids = torch.tensor([[0]])
    right = explain_by_hand(Sum(), "twice", IMAGE, ids)
    assert_same(right, right)
    assert_follows(right, Sum(), "twice", IMAGE, ids)
    value = getattr(right, changed)
    wrong = right._replace(**{changed: value + (1 if changed == "classes" else 0.001)})
    with pytest.raises(AssertionError):
        assert_same(wrong, right)
    with pytest.raises(AssertionError):
        assert_follows(wrong, Sum(), "twice", IMAGE, ids)
