"""Thresholds, components and boxes beside OpenCV's, in every library and in onnxruntime."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from pytorch_grad_cam.utils.image import scale_cam_image
from skimage.measure import label
from torch import Tensor, nn

import camcore
from camcore.errors import InputError
from tests.backends import Backend
from tests.camcore import masks as some
from tests.camcore.exporting import Run, export

Box = tuple[int, int, int, int]


def each(values: np.ndarray, axes: int = 2) -> np.ndarray:
    """What lies along leading axes, in a row."""
    return values.reshape(-1, *values.shape[values.ndim - axes :])


def components(mask: np.ndarray) -> list[tuple[int, Box]]:
    """Area and box of OpenCV's components, the largest first."""
    _, _, found, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    rows = found[1:].tolist()
    return sorted(((area, (x, y, x + w, y + h)) for x, y, w, h, area in rows), reverse=True)


def contours(mask: np.ndarray) -> list[Box]:
    """The boxes around OpenCV's outermost contours."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return sorted((x, y, x + w, y + h) for x, y, w, h in map(cv2.boundingRect, found))


def unpadded(boxes: np.ndarray) -> list[Box]:
    """The boxes before the padding, behind which there are no more."""
    number = int((boxes >= 0).all(axis=-1).sum())
    assert (boxes[number:] == -1).all()
    return [tuple(box) for box in boxes[:number].astype(int).tolist()]


def assert_otsus(threshold: int, saliency_map: np.ndarray) -> None:
    """Fail unless the threshold parts the map as OpenCV's does, or exactly as well."""
    grey = np.uint8(255 * saliency_map)
    theirs, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    if not np.array_equal(grey > threshold, mask > 0):
        ours, others = (some.variance_between(grey, int(level)) for level in (threshold, theirs))
        assert ours >= others
        assert ours - others <= ours * 10**-12
        # Of thresholds that are equally good, the lowest.
        assert not threshold or ours > some.variance_between(grey, threshold - 1)


@given(masks=some.masks())
def test_components_are_those_of_scikit_image(backend: Backend, masks: np.ndarray) -> None:
    labels = camcore.label_components(backend.array(masks))
    few = camcore.label_components(backend.array(masks), connectivity=4)
    expected, expected_few = (
        np.array([label(mask, connectivity=n) for mask in each(masks)]).reshape(masks.shape)
        for n in (2, 1)
    )
    backend.assert_close(labels, expected, "int64")
    backend.assert_close(few, expected_few, "int64")


@given(masks=some.masks())
def test_boxes_are_those_of_opencvs_components(backend: Backend, masks: np.ndarray) -> None:
    boxes = backend.numpy(camcore.component_boxes(backend.array(masks), count=64))
    assert boxes.shape == (*masks.shape[:-2], 64, 4)
    for mask, found in zip(each(masks), each(boxes), strict=True):
        assert sorted(unpadded(found)) == sorted(box for _, box in components(mask))


@given(masks=some.masks())
def test_external_boxes_are_those_of_opencvs_contours(backend: Backend, masks: np.ndarray) -> None:
    found = backend.numpy(camcore.component_boxes(backend.array(masks), count=64, external=True))
    for mask, boxes in zip(each(masks), each(found), strict=True):
        assert sorted(unpadded(boxes)) == contours(mask)


@given(masks=some.masks())
def test_the_largest_come_first_and_of_equal_ones_the_first(
    backend: Backend, masks: np.ndarray
) -> None:
    found = backend.numpy(camcore.component_boxes(backend.array(masks), count=3))
    for mask, boxes in zip(each(masks), each(found), strict=True):
        labels = label(mask, connectivity=2)  # in reading order of first pixels
        areas = np.bincount(labels.ravel())[1:]
        expected = []
        for number in np.argsort(-areas, kind="stable")[:3] + 1:
            y, x = np.nonzero(labels == number)
            expected.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
        assert unpadded(boxes) == expected


@given(masks=some.masks())
def test_the_largest_component(backend: Backend, masks: np.ndarray) -> None:
    found = backend.numpy(camcore.largest_component(backend.array(masks)))
    for mask, alone in zip(each(masks), each(found), strict=True):
        labels = label(mask, connectivity=2)
        largest = np.bincount(labels.ravel())[1:].argmax() + 1 if mask.any() else -1
        np.testing.assert_array_equal(alone, labels == largest)


@given(maps=some.maps())
def test_otsus_threshold_is_opencvs(backend: Backend, maps: np.ndarray) -> None:
    found = camcore.otsu_threshold(backend.array(maps))
    masks = camcore.threshold_masks(backend.array(maps))
    for saliency_map, threshold in zip(each(maps), backend.numpy(found).ravel(), strict=True):
        assert_otsus(threshold, saliency_map)
    above = np.uint8(255 * maps) > backend.numpy(found)[..., None, None]
    backend.assert_close(masks, above, "bool")


def test_of_equally_good_thresholds_the_lowest_is_taken(backend: Backend) -> None:
    """Nothing lies between 0.2 and 0.8; and a third of the pixels may go either way."""
    assert int(camcore.otsu_threshold(backend.array([[0.2, 0.8]]))) == 51
    assert int(camcore.otsu_threshold(backend.array([[0.0, 100 / 255, 200 / 255]]))) == 0


def test_fractions_of_the_maximum(backend: Backend) -> None:
    maps = np.array([[[0.0, 0.5], [2.0, 0.4]], [[0.0, 0.0], [0.0, 0.0]], [[-1, -3], [-2, -1]]])
    one = camcore.threshold_masks(backend.array(maps, "float32"), 0.2)
    several = camcore.threshold_masks(backend.array(maps, "float32"), (0.2, 0, 0.5))
    nothing = np.zeros((2, 2), dtype=bool)
    first = np.array([[False, True], [True, False]])
    backend.assert_close(one, [first, nothing, nothing], "bool")
    backend.assert_close(several[:, 0, ...], [first, nothing, nothing], "bool")
    backend.assert_close(several[0, 1, ...], maps[0] > 0, "bool")
    backend.assert_close(several[0, 2, ...], maps[0] > 1, "bool")
    assert several.shape == (3, 3, 2, 2)


def test_a_map_that_holds_a_nan_has_no_boxes_of_its_own(backend: Backend) -> None:
    maps = np.full((2, 4, 5), np.nan)
    maps[1] = 0
    maps[1, 1:3, 2:5] = 0.7
    masks = camcore.threshold_masks(backend.array(maps, "float32"))
    boxes = camcore.component_boxes(masks, count=2)
    backend.assert_close(boxes, [[[-1] * 4] * 2, [[2, 1, 5, 3], [-1] * 4]], "int64")


@given(maps=some.maps(largest=10))
def test_scores_are_means_times_probabilities(backend: Backend, maps: np.ndarray) -> None:
    masks = camcore.threshold_masks(backend.array(maps))
    boxes = camcore.component_boxes(masks, count=3)
    likely = np.linspace(0.1, 0.9, maps[..., 0, 0].size).reshape(maps.shape[:-2])
    plain = camcore.box_scores(backend.array(maps), boxes)
    weighted = camcore.box_scores(backend.array(maps), boxes, backend.array(likely, "float32"))
    expected = [
        [saliency_map[y1:y2, x1:x2].mean() if x1 >= 0 else 0 for x1, y1, x2, y2 in found]
        for saliency_map, found in zip(
            each(maps), each(backend.numpy(boxes)).astype(int).tolist(), strict=True
        )
    ]
    means = np.array(expected).reshape(boxes.shape[:-1])
    backend.assert_close(plain, means, "float32")
    backend.assert_close(weighted, means * likely[..., None], "float32")


def renormalized(saliency_map: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """As in pytorch-grad-cam's tutorial of object detection."""
    images = []
    for x1, y1, x2, y2 in boxes:
        image = np.zeros_like(saliency_map)
        image[y1:y2, x1:x2] = scale_cam_image(saliency_map[None, y1:y2, x1:x2].copy())[0]
        images.append(image)
    return scale_cam_image(np.max(np.float32(images), axis=0)[None])[0]


def test_renormalizing_in_boxes_is_the_tutorials(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((2, 3, 9, 12)).astype(np.float32)
    boxes = [(1, 2, 8, 6), (4, 0, 12, 5), (3, 3, 4, 4)]
    given = np.array([*boxes, (-1, -1, -1, -1)])
    expected = np.array([renormalized(one, boxes) for one in each(maps)]).reshape(maps.shape)
    for array in (backend.array(given), backend.array(given, "float32")):
        backend.assert_close(
            camcore.renormalize_in_boxes(backend.array(maps), array[None, None, ...]),
            expected,
            "float32",
        )
    nowhere = camcore.renormalize_in_boxes(backend.array(maps), backend.array(-np.ones((1, 4))))
    backend.assert_close(nowhere, np.zeros_like(maps), "float32")


def test_halves_are_looked_at_in_single_precision(backend: Backend) -> None:
    if "float16" not in backend.dtypes:
        pytest.skip("no half precision")
    maps = np.random.default_rng(0).random((3, 20, 20))
    half = backend.array(maps, "float16")
    grown = backend.array(backend.numpy(half), "float32")
    backend.assert_close(
        camcore.otsu_threshold(half), backend.numpy(camcore.otsu_threshold(grown)), "int64"
    )
    boxes = backend.array([[0, 0, 20, 20]])
    backend.assert_close(
        camcore.box_scores(half, boxes), backend.numpy(half).mean((1, 2))[:, None], "float16"
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: camcore.otsu_threshold(np.zeros((2, 2), int)), "floating-point maps, got int64"),
        (lambda: camcore.otsu_threshold(np.zeros(3)), r"maps \(\.\.\., \*S\) with 2 .*got \(3,\)"),
        (lambda: camcore.component_boxes(np.zeros((2, 2)), count=1), "boolean masks, got float64"),
        (lambda: camcore.component_boxes(np.zeros((2, 2), bool), count=0), "at least 1, got 0"),
        (
            lambda: camcore.label_components(np.zeros((2, 2), bool), connectivity=6),  # type: ignore[arg-type]
            "connectivity of 4 or 8, got 6",
        ),
        (lambda: camcore.threshold_masks(np.zeros((2, 2)), "li"), "'otsu', or .* got 'li'"),  # type: ignore[arg-type]
        (lambda: camcore.threshold_masks(np.zeros((2, 2)), (0.1, 1.0)), r"got \(0\.1, 1\.0\)"),
        (lambda: camcore.threshold_masks(np.zeros((2, 2)), ()), r"got \(\)"),
        (lambda: camcore.box_scores(np.zeros((2, 2)), np.zeros((3, 5))), r"got \(2, 2\) and \(3, "),
        (
            lambda: camcore.box_scores(np.zeros((2, 2, 2)), np.zeros((3, 1, 4))),
            r"broadcast, got \(2, 2, 2\) and \(3, 1, 4\)",
        ),
    ],
)
def test_what_does_not_fit(call: Callable[[], Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        call()


class FromMaps(nn.Module):
    """What a graph may have behind its maps (B, K, H, W)."""

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        masks = camcore.threshold_masks(maps)
        boxes = camcore.component_boxes(masks, count=6)
        return (
            camcore.otsu_threshold(maps),
            camcore.threshold_masks(maps, (0.2, 0.5)),
            boxes,
            camcore.box_scores(maps, boxes.to(torch.float32), maps.mean((2, 3))),
            camcore.renormalize_in_boxes(maps, boxes),
        )


class FromMasks(nn.Module):
    """The same of masks (B, K, H, W)."""

    def forward(self, masks: Tensor) -> tuple[Tensor, ...]:
        return (
            camcore.component_boxes(masks, count=32),
            camcore.component_boxes(masks, count=32, external=True),
            camcore.label_components(masks),
            camcore.largest_component(masks),
        )


FREE = (dict.fromkeys(range(4), torch.export.Dim.DYNAMIC),)


@pytest.fixture(scope="module")
def of_maps() -> Run:
    return export(FromMaps(), (torch.rand(2, 3, 9, 11),), FREE)


@pytest.fixture(scope="module")
def of_masks() -> Run:
    return export(FromMasks(), (torch.rand(2, 3, 9, 11) < 0.5,), FREE)


def stack(make: Any, seed: int, batch: int, k: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = [make(rng, height, width) for _ in range(batch * k)]
    return np.array(found).reshape(batch, k, height, width)


SIZES = [(1, 1, 1, 1), (4, 25, 1, 13), (4, 25, 24, 17), (1, 2, 97, 64), (20, 10, 12, 12)]


def assert_maps_are_right(run: Run, maps: np.ndarray) -> None:
    given = torch.as_tensor(maps)
    thresholds, fractions, boxes, scores, stretched = run((given,))
    for saliency_map, threshold, found in zip(
        each(maps), thresholds.ravel(), each(boxes), strict=True
    ):
        assert_otsus(threshold, saliency_map)
        expected = components(np.uint8(255 * saliency_map) > threshold)
        assert set(unpadded(found)) <= {box for _, box in expected}
        assert len(unpadded(found)) == min(6, len(expected))
    eager = FromMaps()(given)
    np.testing.assert_array_equal(fractions, eager[1].numpy())
    np.testing.assert_allclose(scores, eager[3].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stretched, eager[4].numpy(), rtol=1e-5, atol=1e-5)


def assert_masks_are_right(run: Run, masks: np.ndarray) -> None:
    boxes, outer, labels, largest = run((torch.as_tensor(masks),))
    for mask, found, outermost in zip(each(masks), each(boxes), each(outer), strict=True):
        assert len(unpadded(found)) == min(32, len(components(mask)))
        assert set(unpadded(found)) <= {box for _, box in components(mask)}
        assert set(unpadded(outermost)) <= set(contours(mask))
        assert len(unpadded(outermost)) == min(32, len(contours(mask)))
    eager = FromMasks()(torch.as_tensor(masks))
    for actual, expected in zip((boxes, outer, labels, largest), eager, strict=True):
        np.testing.assert_array_equal(actual, expected.numpy())


@pytest.mark.parametrize("size", SIZES)
def test_in_onnxruntime(of_maps: Run, of_masks: Run, size: tuple[int, ...]) -> None:
    """Exported at one size, beside OpenCV at others."""
    assert_maps_are_right(of_maps, stack(some.random_map, 1, *size))
    assert_masks_are_right(of_masks, stack(some.random_mask, 2, *size))


@pytest.mark.slow
def test_ten_thousand_in_onnxruntime(of_maps: Run, of_masks: Run) -> None:
    for seed in range(50):
        height, width = np.random.default_rng(seed).integers(1, 33, 2)
        assert_maps_are_right(of_maps, stack(some.random_map, seed, 20, 10, height, width))
        assert_masks_are_right(of_masks, stack(some.random_mask, seed, 20, 10, height, width))


def test_large_spirals_and_combs_in_onnxruntime(of_masks: Run) -> None:
    masks = np.array([some.spiral(224, 224), some.comb(224, 224), some.rings(224, 224)])[None]
    boxes, outer, *_ = of_masks((torch.as_tensor(masks),))
    assert unpadded(boxes[0, 0]) == unpadded(boxes[0, 1]) == [(0, 0, 224, 224)]
    assert unpadded(outer[0, 2]) == [(0, 0, 224, 224)]
    assert len(unpadded(boxes[0, 2])) == 32
    _, found = cv2.connectedComponents(masks[0, 0].astype(np.uint8), connectivity=8)
    assert found.max() == 1
