"""Against regions and boxes found in plain Python, and against the kernels."""

from collections import deque
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import camcore
from camcore.adapters.evaluation.localisation import (
    THRESHOLDS,
    Localisation,
    found_in_map,
)
from camcore.adapters.images import Placement


def regions(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The pixels (y, x) of each region of 8 neighbours, in reading order of their first ones."""
    left, found = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        region, waiting = [], deque([start])
        while waiting:
            y, x = waiting.popleft()
            region.append((y, x))
            for near in [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        found.append(region)
    return found


def painted_iou(region: list[tuple[int, int]], box: list[int], size: tuple[int, int]) -> float:
    """By counting pixels."""
    ys, xs = zip(*region, strict=True)
    one, other = np.zeros(size, bool), np.zeros(size, bool)
    one[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1] = True
    other[box[1] : box[3], box[0] : box[2]] = True
    return float((one & other).sum() / (one | other).sum())


def some_map(seed: int) -> NDArray[np.float32]:
    """Blobs, and beside them pixels that are alone."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:12, :14]
    blobs = sum(
        rng.random() * np.exp(-((y - 12 * rng.random()) ** 2 + (x - 14 * rng.random()) ** 2) / 6)
        for _ in range(3)
    )
    noise = rng.random((12, 14)) * (rng.random((12, 14)) < 0.1)
    # Steps, so that regions are of equal size here and there.
    return np.asarray(np.round(blobs + noise, 1), np.float32)


WHOLE = Placement(0, 0, 14, 12, height=12, width=14)
BOXES = [[1, 2, 7, 9], [6, 0, 14, 5]]


@pytest.mark.parametrize("seed", range(8))
def test_overlaps_at_every_threshold(seed: int) -> None:
    saliency_map = some_map(seed)
    found = found_in_map(saliency_map, WHOLE, np.array(BOXES, np.float64))
    for t, threshold in enumerate(THRESHOLDS):
        parts = regions(saliency_map > threshold * saliency_map.max())
        overlaps = [max(painted_iou(part, box, (12, 14)) for box in BOXES) for part in parts]
        sizes = [len(part) for part in parts]
        largest = overlaps[sizes.index(max(sizes))]
        assert found["largest"][t] == pytest.approx(largest, abs=1e-6)
        assert found["any"][t] == pytest.approx(max(overlaps), abs=1e-6)


@pytest.mark.parametrize("seed", range(8, 12))
def test_regions_are_those_of_the_kernels(seed: int) -> None:
    saliency_map = some_map(seed)
    masks = camcore.threshold_masks(saliency_map, THRESHOLDS)
    boxes = camcore.component_boxes(masks, count=30)
    truth = np.array(BOXES)
    overlaps = camcore.box_iou(boxes[:, :, None], truth).max(-1) * (boxes[..., 0] >= 0)
    found = found_in_map(saliency_map, WHOLE, truth.astype(np.float64))
    np.testing.assert_allclose(found["largest"], overlaps[:, 0], atol=1e-6)
    np.testing.assert_allclose(found["any"], overlaps.max(-1), atol=1e-6)


def test_overlaps_are_in_the_pixels_of_the_image() -> None:
    """A map of a part of an image twice as large; what lies beyond the image is cut off."""
    saliency_map = np.zeros((4, 4), np.float32)
    saliency_map[:2, 1:3] = 1
    placement = Placement(-2, 4, 6, 12, height=12, width=6)
    found = found_in_map(saliency_map, placement, np.array([[0.0, 4, 4, 8]]))
    assert found == {"off": 0.0, "largest": [1.0] * 100, "any": [1.0] * 100}


@pytest.mark.parametrize(
    ("box", "off"), [([5, 3, 9, 9], 2.121), ([0, 0, 2, 2], 1.5), ([3, 1, 4, 3], 0.0)]
)
def test_how_far_off_the_highest_point_is(box: list[float], off: float) -> None:
    """From the middle of the pixel to the nearest of the boxes."""
    saliency_map = np.zeros((12, 14), np.float32)
    saliency_map[1, 3] = 1
    far = [10.0, 10, 12, 12]
    assert found_in_map(saliency_map, WHOLE, np.array([far, box]))["off"] == off


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_map_points_nowhere(value: float) -> None:
    saliency_map = np.full((12, 14), value, np.float32)
    found = found_in_map(saliency_map, WHOLE, np.array([[0.0, 0, 14, 12]]))
    assert found["off"] is None
    assert found["any"] == [value] * 100  # a map of ones is one region


def overlaps(*first: float) -> list[float]:
    """Of the first thresholds; 0 at all others."""
    return [*first, *[0.0] * (100 - len(first))]


def entry(label: int, off: float | None, largest: list[float], best: list[float]) -> dict[str, Any]:
    return {"class": label, "off": off, "largest": largest, "any": best}


def test_figures_by_hand() -> None:
    objects = [
        entry(0, 0.0, overlaps(0.6, 0.2), overlaps(0.6, 0.75)),
        entry(0, 15.0, overlaps(0.4, 0.5), overlaps(0.4, 0.5)),
        entry(0, 15.1, overlaps(0.0, 0.9), overlaps(0.3, 0.9)),
        entry(4, None, overlaps(0.0, 0.4), overlaps(0.1, 0.4)),
    ]
    added = Localisation()
    for part in (objects[:1], [], objects[1:]):
        added.add({"objects": part})
    found = added.figures()
    assert found["objects"] == 4
    assert found["pointing_game"] == pytest.approx((1 / 3 + 0) / 2)  # a mean over classes
    assert found["pointing_game_tolerant"] == pytest.approx((2 / 3 + 0) / 2)
    assert (found["max_box_acc"], found["threshold"]) == (2 / 4, 0.01)
    assert found["curves"]["box_acc"][:3] == [1 / 4, 2 / 4, 0]
    # At 0.3 all four at the second threshold, at 0.5 three, at 0.7 two.
    assert found["max_box_acc_v2"] == pytest.approx((4 + 3 + 2) / 4 / 3)
    assert found["curves"]["box_acc_v2"]["0.3"][:2] == [3 / 4, 1]


def test_figures_of_nothing() -> None:
    found = Localisation().figures()
    assert found["objects"] == 0
    assert found["max_box_acc"] is None
