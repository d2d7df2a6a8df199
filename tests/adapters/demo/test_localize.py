import numpy as np
import pytest

from camcore.adapters.demo.localize import BOX_THRESHOLD, centred_blur, localisation
from camcore.metrics import threshold_box


def test_localisation_by_hand() -> None:
    maps = np.zeros((3, 8, 8), np.float32)
    maps[0, 2:4, 2:4] = 1  # all of its box
    maps[1, 0:4, 0:4] = 1  # 16 pixels, 4 of them in the box: its peak, the first, is not
    maps[2, 6, 6] = 1  # peak in its box, of which it is a quarter
    maps[2, 0, 0] = BOX_THRESHOLD  # not above the threshold
    boxes = np.array([[2, 2, 4, 4], [2, 2, 4, 4], [6, 6, 8, 8]])
    found = localisation(maps, boxes)
    assert found.objects == 3
    assert found.pointing_game == pytest.approx(2 / 3)
    assert found.mean_iou == pytest.approx((1 + 4 / 16 + 1 / 4) / 3)
    assert found.good_boxes == pytest.approx(1 / 3)


@pytest.mark.parametrize("side", [20, 40])
def test_the_blur_is_centred_and_as_large_as_asked(side: int) -> None:
    blur = centred_blur((64, 128), side)
    np.testing.assert_array_equal(blur, blur[::-1, ::-1])
    x1, y1, x2, y2 = threshold_box(blur, BOX_THRESHOLD)
    assert (x1 + x2, y1 + y2) == (128, 64)
    assert x2 - x1 == pytest.approx(side, abs=2)
    assert y2 - y1 == pytest.approx(side, abs=2)
