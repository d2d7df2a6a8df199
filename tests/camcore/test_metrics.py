"""Metrics against pixel counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import camcore
from tests.backends import Backend

corner = st.integers(0, 7)
box = st.tuples(corner, corner, corner, corner)


def pixels(box: tuple[int, ...]) -> np.ndarray:
    """The box painted on an 8 x 8 image."""
    x1, y1, x2, y2 = box
    mask = np.zeros((8, 8), dtype=bool)
    for y in range(y1, y2):
        for x in range(x1, x2):
            mask[y, x] = True
    return mask


@given(a=st.lists(box, min_size=1, max_size=3), b=box, dtype=st.sampled_from(["float32", None]))
def test_box_iou_counts_pixels(
    backend: Backend, a: list[tuple[int, ...]], b: tuple[int, ...], dtype: str | None
) -> None:
    common = [(pixels(each) & pixels(b)).sum() for each in a]
    either = [(pixels(each) | pixels(b)).sum() for each in a]
    expected = [x / max(y, 1) for x, y in zip(common, either, strict=True)]
    actual = camcore.box_iou(backend.array(a, dtype), backend.array(b, dtype))
    backend.assert_close(actual, expected, "float32")


def test_box_iou_of_fractions_and_broadcasting(backend: Backend) -> None:
    a = backend.array([[[0.0, 0.0, 1.0, 1.0]], [[0.0, 0.0, 2.0, 2.0]]], "float64")
    b = backend.array([[0.5, 0.0, 1.5, 1.0], [5.0, 5.0, 6.0, 6.0]], "float64")
    backend.assert_close(camcore.box_iou(a, b), [[1 / 3, 0.0], [0.25, 0.0]], "float64")


@given(seed=st.integers(0, 1000), threshold=st.floats(-0.1, 1.1))
def test_threshold_box_is_the_tightest(backend: Backend, seed: int, threshold: float) -> None:
    maps = backend.rounded(np.random.default_rng(seed).random((2, 3, 4, 5)) ** 3, "float32")
    expected = np.zeros((2, 3, 4), dtype=np.int64)
    for index in np.ndindex(2, 3):
        ys, xs = np.nonzero(maps[index] > np.float32(threshold))
        if len(xs):
            expected[index] = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    actual = camcore.threshold_box(backend.array(maps), threshold)
    backend.assert_close(actual, expected, "int64")
    thresholds = backend.array(np.full((2, 3), threshold))
    backend.assert_close(camcore.threshold_box(backend.array(maps), thresholds), expected, "int64")


def test_threshold_box_of_nothing_is_empty(backend: Backend) -> None:
    maps = backend.array([[[0.0, 0.0]], [[np.nan, np.nan]]])
    backend.assert_close(camcore.threshold_box(maps, 0.0), np.zeros((2, 4)), "int64")


@given(seed=st.integers(0, 1000), box=box)
def test_pointing_game_looks_up_the_highest_pixel(
    backend: Backend, seed: int, box: tuple[int, ...]
) -> None:
    maps = np.random.default_rng(seed).permutation(3 * 64).reshape(3, 8, 8) / 100
    expected = [bool(pixels(box).flat[saliency_map.argmax()]) for saliency_map in maps]
    actual = camcore.pointing_game(backend.array(maps), backend.array(box))
    backend.assert_close(actual, expected, "bool")


def test_pointing_game_with_several_boxes(backend: Backend) -> None:
    maps = np.zeros((2, 1, 4, 4))
    maps[0, 0, 1, 2] = maps[1, 0, 3, 0] = 1.0
    boxes = [[[2.0, 1.0, 3.0, 2.0], [0.0, 0.0, 2.4, 4.0]], [[0.0, 3.0, 1.0, 4.0], [0, 0, 4, 3]]]
    actual = camcore.pointing_game(backend.array(maps), backend.array(boxes))
    backend.assert_close(actual, [[True, False], [True, False]], "bool")


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_map_that_points_nowhere_is_no_hit(backend: Backend, value: float) -> None:
    everything = backend.array([0, 0, 4, 4])
    hit = camcore.pointing_game(backend.array(np.full((1, 4, 4), value)), everything)
    backend.assert_close(hit, [False], "bool")


def test_wrong_shapes_and_types_are_refused(backend: Backend) -> None:
    maps, boxes = backend.array(np.ones((2, 4, 4))), backend.array(np.ones((3, 4)))
    with pytest.raises(camcore.InputError, match=r"got \(2, 4, 4\) and \(3, 4\)"):
        camcore.pointing_game(maps, boxes)
    with pytest.raises(camcore.InputError, match=r"boxes \(\.\.\., 4\).*got \(2, 3\)"):
        camcore.pointing_game(maps, backend.array(np.ones((2, 3))))
    with pytest.raises(camcore.InputError, match=r"floating-point maps, got .*int64"):
        camcore.pointing_game(backend.array([[1, 2], [3, 4]]), boxes)
    with pytest.raises(camcore.InputError, match=r"got \(4,\)"):
        camcore.threshold_box(backend.array(np.ones(4)), 0.5)
    with pytest.raises(camcore.InputError, match=r"got \(2, 4, 4\) and \(3,\)"):
        camcore.threshold_box(maps, backend.array(np.ones(3)))
    with pytest.raises(camcore.InputError, match=r"got \(3, 4\) and \(2, 4\)"):
        camcore.box_iou(boxes, backend.array(np.ones((2, 4))))
    with pytest.raises(camcore.InputError, match=r"got \(2,\) of .*bool"):
        camcore.box_iou(boxes, backend.array([True, False]))
