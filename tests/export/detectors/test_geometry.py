"""Where points of a map lie: a level is bilinear between its points, a region zero outside."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from camcore.export.detectors.geometry import Frame, over_level, over_regions


@given(image=st.integers(1, 40), points=st.integers(1, 12))
def test_a_level_of_the_whole_image_is_resized(image: int, points: int) -> None:
    frame = Frame((image, 9), (image, 9), (image, 9))
    small = torch.rand(points, 3, generator=torch.Generator().manual_seed(image))
    expected = F.interpolate(small[None, None], (image, 9), mode="bilinear")[0, 0]
    torch.testing.assert_close(over_level(small, frame), expected)


def test_padding_is_left_out() -> None:
    """The image is the upper half of what the level covers: its last rows are never reached."""
    points = torch.eye(4)[:, :, None].expand(4, 4, 2)
    rows = over_level(points, Frame((8, 8), (16, 16), (32, 16)))[..., 0]
    assert rows[3].abs().max() == 0
    np.testing.assert_allclose(rows.sum(0), 1, rtol=1e-6)
    assert rows[2, -1] > 0


def test_a_region() -> None:
    """Twice as large in the detector as in the image: from pixel 2 to 6 and from 1 to 9."""
    frame = Frame((8, 10), (16, 20), (16, 32))
    corners = torch.tensor([[2.0, 4, 18, 12]])
    placed = over_regions(torch.ones(1, 3, 3), corners, frame)[0]
    inside = torch.zeros(8, 10)
    inside[2:6, 1:9] = 1
    torch.testing.assert_close(placed, inside)
    # Points stand in the middle of their thirds.
    ramp = over_regions(torch.arange(3.0).expand(1, 3, 3), corners, frame)[0, 3, 1:9]
    at = (np.arange(8) + 0.5) / 8 * 3 - 0.5
    np.testing.assert_allclose(ramp, np.interp(at, [0, 1, 2], [0, 1, 2]), atol=1e-6)


def test_a_region_of_no_width_has_an_empty_map() -> None:
    frame = Frame((8, 8), (8, 8), (8, 8))
    placed = over_regions(torch.ones(1, 3, 3), torch.tensor([[3.0, 1, 3, 5]]), frame)
    assert torch.isfinite(placed).all()
    assert placed.sum() == 0
