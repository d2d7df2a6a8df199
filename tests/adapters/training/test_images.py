from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camcore.adapters.evaluation.annotations import AnnotatedImage, read_annotations
from camcore.adapters.images import prepare, read_image
from camcore.adapters.training.images import (
    SMALLEST_WINDOW,
    LabelledImages,
    parted,
    varied,
)
from camcore.card import ImageSpec
from camcore.errors import FileError, InputError

SPEC = ImageSpec(None, None, mean=(0.5,) * 3, std=(0.25,) * 3, resize=40, crop=(32, 32))


@pytest.fixture(scope="module")
def annotated(scenes: Path) -> list[AnnotatedImage]:
    return list(read_annotations(scenes / "instances.json", scenes / "images").images)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**31))
def test_a_varied_image_is_a_window_of_it(height: int, width: int, seed: int) -> None:
    """Found again by its values, which rise from left to right, and fall where it is mirrored."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(height)[:, None], np.arange(width)
    found = varied(image, np.random.default_rng(seed))
    top, left = int(found[0, 0, 0]), int(found[..., 1].min())
    window = image[top : top + found.shape[0], left : left + found.shape[1]]
    mirrored = found[0, 0, 1] > found[0, -1, 1]
    np.testing.assert_array_equal(found, window[:, ::-1] if mirrored else window)
    for side, whole in zip(found.shape, (height, width), strict=False):
        assert SMALLEST_WINDOW * whole - 0.5 <= side <= whole


def test_images_and_targets(annotated: list[AnnotatedImage]) -> None:
    """Without a seed an image is what the file of the model will see; crowds are there as well."""
    crowd = replace(annotated[3], ignored=np.ones_like(annotated[3].ignored))
    images = LabelledImages([*annotated[:3], crowd], 8, SPEC)
    assert len(images) == 4
    for k, each in enumerate(annotated[:4]):
        found, target = images[k]
        expected, _ = prepare(read_image(each.path), SPEC)
        np.testing.assert_array_equal(found.numpy(), expected[0])
        assert target.nonzero().flatten().tolist() == sorted(set(each.labels.tolist()))


def test_an_epoch_shows_other_parts_and_each_seed_its_own(annotated: list[AnnotatedImage]) -> None:
    first, again, other = (LabelledImages(annotated, 8, SPEC, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first[2][0], again[2][0])
    assert not torch.equal(first[2][0], other[2][0])
    again.epoch = 1
    assert not torch.equal(first[2][0], again[2][0])
    assert torch.equal(first[2][1], again[2][1])


@pytest.mark.parametrize(
    ("changes", "size"),
    [({"crop": None}, (40, 40)), ({"crop": None, "resize": (24, 56)}, (24, 56)), ({}, (32, 32))],
)
def test_images_are_of_one_size(
    annotated: list[AnnotatedImage], changes: dict[str, object], size: tuple[int, int]
) -> None:
    images = LabelledImages(annotated, 8, replace(SPEC, **changes), seed=0)  # type: ignore[arg-type]
    assert {tuple(images[k][0].shape) for k in range(3)} == {(3, *size)}


def test_images_of_no_stated_size_are_refused(annotated: list[AnnotatedImage]) -> None:
    with pytest.raises(InputError, match="those of a batch are to be of one size"):
        LabelledImages(annotated, 8, replace(SPEC, crop=None, resize=None))


def test_an_image_that_cannot_be_read_is_told(annotated: list[AnnotatedImage]) -> None:
    missing = replace(annotated[0], path=Path("nowhere.png"))
    with pytest.raises(FileError, match=r"nowhere\.png"):
        LabelledImages([missing], 8, SPEC)[0]


@given(st.integers(0, 40), st.floats(0, 0.9), st.integers(0, 5))
def test_images_are_parted(count: int, share: float, seed: int) -> None:
    empty = AnnotatedImage("", Path(), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool))
    images = [replace(empty, name=str(k)) for k in range(count)]
    if count - round(share * count) < 2:
        with pytest.raises(InputError, match="expected at least 2 to learn from"):
            parted(images, share, seed)
        return
    learnt, kept = parted(images, share, seed)
    assert len(kept) == round(share * count)
    assert sorted([*learnt, *kept], key=lambda each: int(each.name)) == images
