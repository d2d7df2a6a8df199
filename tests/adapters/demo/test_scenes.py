from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from camcore.adapters.demo.scenes import (
    CLASS_NAMES,
    LARGEST_DIAMETER,
    SMALLEST_DIAMETER,
    Scene,
    cut_to_size,
    make_scene,
)
from camcore.errors import InputError

SceneTable = dict[str, list[Scene]]


def scenes_of(count: int, seed: int, **options: Any) -> list[Scene]:
    return [make_scene(np.random.default_rng([seed, i]), **options) for i in range(count)]


def explained_by_class(table: SceneTable, feature: Callable[[Scene], Any]) -> float:
    """Eta squared: the share of the feature's variance that lies between classes, worst column."""
    values = np.array([[feature(scene) for scene in row] for row in table.values()], dtype=float)
    within = values.reshape(-1, values.shape[-1])
    return float((values.mean(axis=1).var(axis=0) / within.var(axis=0)).max())


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return scenes_of(400, seed=101)


@pytest.fixture(scope="module")
def single_objects() -> SceneTable:
    """For each class, scenes that hold it alone; the seeds differ between classes."""
    return {name: scenes_of(80, seed=200 + c, labels=[c]) for c, name in enumerate(CLASS_NAMES)}


def test_equal_seeds_give_equal_scenes_and_other_seeds_others() -> None:
    one, again, other = (make_scene(np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.boxes, again.boxes)
    assert one.labels == again.labels
    assert not np.array_equal(one.image, other.image)


def test_a_scene_has_one_to_three_different_classes(scenes: list[Scene]) -> None:
    assert {len(scene.labels) for scene in scenes} == {1, 2, 3}
    for scene in scenes:
        assert len(set(scene.labels)) == len(scene.labels) == len(scene.boxes) == len(scene.masks)


def test_a_class_twice() -> None:
    scene = make_scene(np.random.default_rng(3), labels=[1, 1])
    assert scene.labels == (1, 1)
    assert not (scene.masks[0] & scene.masks[1]).any()


def test_types_and_shapes(scenes: list[Scene]) -> None:
    for scene in scenes[:20]:
        assert (scene.image.dtype, scene.image.shape) == (np.uint8, (128, 128, 3))
        assert (scene.boxes.dtype, scene.boxes.shape) == (np.int64, (len(scene.labels), 4))
        assert (scene.masks.dtype, scene.masks.shape) == (np.bool_, (len(scene.labels), 128, 128))


def test_boxes_are_tight_around_the_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        for (x1, y1, x2, y2), mask in zip(scene.boxes, scene.masks, strict=True):
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum()
            for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert side.any()


def test_the_mask_is_where_the_object_was_painted() -> None:
    """The picture minus the photograph shows what was painted, without asking the generator."""
    for seed in range(20):
        grey = np.full((128, 128, 3), 128, dtype=np.uint8)
        scene = make_scene(np.random.default_rng(seed), photograph=grey)
        change = np.abs(scene.image.astype(int) - 128).max(axis=2)
        painted = scene.masks.any(axis=0)
        assert (change[painted] > 8).mean() > 0.9
        # A shadow only darkens, evenly in all channels: nothing outside the masks is coloured.
        spread = np.ptp(scene.image.astype(int), axis=2)
        assert (spread[~painted] > 24).mean() < 0.02


def test_objects_lie_inside_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert (scene.boxes[:, :2] > 0).all()
        assert (scene.boxes[:, 2:] < 128).all()
        for i in range(len(scene.boxes)):
            for j in range(i):
                low = np.maximum(scene.boxes[i, :2], scene.boxes[j, :2])
                high = np.minimum(scene.boxes[i, 2:], scene.boxes[j, 2:])
                assert (high <= low).any(), (scene.boxes[i], scene.boxes[j])


def test_diameters_stay_in_their_range(scenes: list[Scene]) -> None:
    sides = np.concatenate([scene.boxes[:, 2:] - scene.boxes[:, :2] for scene in scenes])
    longer = sides.max(axis=1)
    assert longer.min() >= SMALLEST_DIAMETER - 1
    assert longer.max() <= LARGEST_DIAMETER + 4  # an outline and the pixel grid add a little


def test_classes_are_balanced(scenes: list[Scene]) -> None:
    counts = np.bincount([label for scene in scenes for label in scene.labels], minlength=8)
    assert counts.sum() > 700
    expected = counts.sum() / 8
    # Four standard deviations of a binomial count.
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected * 7 / 8)


@pytest.mark.parametrize(
    "feature",
    [
        pytest.param(lambda s: s.image[s.masks[0]].mean(axis=0), id="colour"),
        pytest.param(lambda s: s.image.mean(axis=(0, 1)), id="whole picture"),
        pytest.param(lambda s: s.boxes[0, :2] + s.boxes[0, 2:], id="position"),
        pytest.param(lambda s: (s.boxes[0, 2:] - s.boxes[0, :2]).max(keepdims=True), id="size"),
    ],
)
def test_nothing_but_shape_tells_the_class(
    single_objects: SceneTable, feature: Callable[[Scene], Any]
) -> None:
    # By chance (8 - 1) / (640 - 1) = 0.011 on average, and above 0.04 once in 2000 times.
    assert explained_by_class(single_objects, feature) < 0.04


def test_the_area_of_the_shape_does_tell(single_objects: SceneTable) -> None:
    """The measure above sees a leak where there is one."""
    assert explained_by_class(single_objects, lambda s: [s.masks.sum()]) > 0.04


def test_labels_are_painted_as_asked_and_in_order() -> None:
    assert make_scene(np.random.default_rng(0), labels=[6, 1]).labels == (6, 1)
    empty = make_scene(np.random.default_rng(0), labels=[])
    assert empty.labels == ()
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 128, 128)


@pytest.mark.parametrize("size", [(96, 96), (128, 200), (333, 250)])
def test_any_size(size: tuple[int, int]) -> None:
    scene = make_scene(np.random.default_rng(1), size=size, labels=[0, 1, 2])
    assert scene.image.shape == (*size, 3)
    assert scene.masks.any(axis=(1, 2)).all()


def test_a_photograph_is_left_as_it_is_away_from_the_objects() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (150, 300, 3), dtype=np.uint8)
    background = cut_to_size(photograph, (150, 200))
    np.testing.assert_array_equal(background, photograph[:, 50:250])
    scene = make_scene(np.random.default_rng(0), size=(150, 200), labels=[4], photograph=photograph)
    x1, y1, x2, y2 = scene.boxes[0]
    away = np.ones((150, 200), dtype=bool)
    away[max(y1 - 12, 0) : y2 + 12, max(x1 - 12, 0) : x2 + 12] = False
    np.testing.assert_array_equal(scene.image[away], background[away])
    assert not np.array_equal(scene.image[scene.masks[0]], background[scene.masks[0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (64, 128)}, r"at least 96 pixels, got \(64, 128\)"),
        ({"labels": [8]}, r"from 0 to 7, got \[8\]"),
        ({"labels": [0, 1, 2, 3]}, "at most 3 objects, got 4"),
        ({"photograph": np.zeros((99, 99), np.uint8)}, r"uint8 \(h, w, 3\), got uint8 \(99, 99\)"),
        ({"photograph": np.zeros((9, 9, 3), np.float32)}, "got float32"),
    ],
)
def test_errors_say_what_was_given(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_scene(np.random.default_rng(0), **options)
