from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camcore.adapters import Runner, load
from camcore.adapters.evaluation.annotations import by_class, read_annotations
from camcore.adapters.evaluation.localisation import found_in_map
from camcore.adapters.evaluation.predict import check_file, checked, predict_batch
from camcore.adapters.images import prepare, read_image
from camcore.adapters.stream import Prepared
from camcore.errors import InputError
from tests.adapters.toy import CARD, write_toy


@pytest.fixture(scope="module")
def told(spots: Path) -> Runner:
    return load(spots)


def data_set(folder: Path, runner: Runner) -> tuple[list[Prepared], Any]:
    stated = read_annotations(folder / "instances.json", folder / "images")
    annotations, _ = by_class(stated, runner.card)
    batch = []
    for number, image in enumerate(annotations.images):
        pixels = read_image(image.path)
        batch.append(Prepared(number, image.path, pixels, *prepare(pixels, runner.card.image)))
    return batch, annotations.images


def by_label(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            key: sorted(value, key=lambda each: each["class"]) if isinstance(value, list) else value
            for key, value in entry.items()
        }
        for entry in entries
    ]


def test_every_class_is_predicted_as_the_file_gives_it(told: Runner, scenes: Path) -> None:
    """Image by image and class by class, beside what the file gives alone."""
    batch, images = data_set(scenes, told)
    entries = predict_batch(told, batch, images, 0.0)
    assert [entry["image"] for entry in entries] == [image.name for image in images]
    assert len({len(entry["objects"]) for entry in entries}) > 1
    for entry, each, image in zip(by_label(entries), batch, images, strict=True):
        alone = told(each.array, class_ids=[*range(8)])
        size = alone.saliency_map.shape[2:]
        probabilities = 1 / (1 + np.exp(-alone.scores[0].astype(np.float64)))
        assert [found["class"] for found in entry["predictions"]] == [*range(8)]
        for label, found in enumerate(entry["predictions"]):
            assert found["probability"] == pytest.approx(probabilities[label], abs=1e-5)
            real = alone.box_scores[0, label] > 0
            placed = each.placement.boxes_to_original(alone.boxes[0, label][real], size)
            np.testing.assert_allclose(found["boxes"], placed, atol=0.01)
            np.testing.assert_allclose(found["scores"], alone.box_scores[0, label][real], atol=1e-5)
        assert [found["class"] for found in entry["objects"]] == sorted(set(image.labels.tolist()))
        for found in entry["objects"]:
            own = alone.saliency_map[0, found["class"]]
            expected = found_in_map(own, each.placement, image.boxes_of(found["class"]))
            assert found["off"] == pytest.approx(expected["off"], abs=0.01)
            np.testing.assert_allclose(found["any"], expected["any"], atol=0.02)


def test_a_file_that_explains_all_says_the_same(
    told: Runner, all_spots: Path, scenes: Path
) -> None:
    batch, images = data_set(scenes, told)
    for above in (0.0, 0.5):
        one = by_label(predict_batch(told, batch, images, above))
        other = by_label(predict_batch(load(all_spots), batch, images, above))
        for entry, same in zip(one, other, strict=True):
            for found, twin in zip(entry["predictions"], same["predictions"], strict=True):
                assert found["class"] == twin["class"]
                np.testing.assert_allclose(found["boxes"], twin["boxes"], atol=0.01)
            for found, twin in zip(entry["objects"], same["objects"], strict=True):
                assert (found["class"], found["off"]) == (twin["class"], twin["off"])


def test_a_file_that_explains_the_best_predicts_those(
    told: Runner, best_spots: Path, scenes: Path
) -> None:
    """The boxes of the three most probable classes, and nothing of what is there beside them."""
    batch, images = data_set(scenes, told)
    best = load(best_spots)
    check_file(best.card, 0.0)
    every = predict_batch(told, batch, images, 0.0)
    for entry, full in zip(predict_batch(best, batch, images, 0.0), every, strict=True):
        likely = sorted(full["predictions"], key=lambda found: -found["probability"])[:3]
        for found, twin in zip(entry["predictions"], likely, strict=True):
            assert found["class"] == twin["class"]
            np.testing.assert_allclose(found["boxes"], twin["boxes"], atol=0.01)
            np.testing.assert_allclose(found["scores"], twin["scores"], atol=1e-5)
        assert entry["objects"] == []


def test_only_likely_classes_are_predicted(told: Runner, scenes: Path) -> None:
    """Also of an image in which nothing is, where no class was asked for at first."""
    batch, images = data_set(scenes, told)
    empty = [
        replace(image, labels=image.labels[:0], boxes=image.boxes[:0], ignored=image.ignored[:0])
        for image in images
    ]
    every = by_label(predict_batch(told, batch, images, 0.0))
    values = [found["probability"] for entry in every for found in entry["predictions"]]
    above = float(np.median(values))
    for stated in (images, empty):
        entries = by_label(predict_batch(told, batch, stated, above))
        for entry, full in zip(entries, every, strict=True):
            likely = [each["class"] for each in full["predictions"] if each["probability"] >= above]
            assert [each["class"] for each in entry["predictions"]] == likely
            assert len(entry["objects"]) == (len(full["objects"]) if stated is images else 0)


def test_a_file_without_boxes_or_probabilities(scenes: Path, tmp_path: Path) -> None:
    names = ("disc", "ring", "square", "triangle")
    plain = load(write_toy(tmp_path / "a.onnx", replace(CARD, class_names=names)))
    batch, images = data_set(scenes, plain)
    (entry,) = predict_batch(plain, batch[:1], images[:1], 0.0)
    assert entry["predictions"] == []
    assert {each["class"] for each in entry["objects"]} == set(images[0].labels.tolist())
    none = replace(CARD, class_names=names, probabilities="none")
    scoreless = load(write_toy(tmp_path / "b.onnx", none))
    with pytest.raises(InputError, match="gives no probabilities"):
        predict_batch(scoreless, batch[:1], images[:1], 0.5)


def test_an_image_that_the_file_fails_on_has_an_error(told: Runner, scenes: Path) -> None:
    batch, images = data_set(scenes, told)
    broken = replace(batch[1], array=np.full_like(batch[1].array, np.nan))
    good, bad, other = predict_batch(told, [batch[0], broken, batch[2]], images[:3], 0.0)
    assert "NaN" in bad["error"]
    assert len(good["predictions"]) == len(other["predictions"]) == 8


def test_files_that_cannot_be_asked_are_refused() -> None:
    with pytest.raises(InputError, match=r"export the model with --boxes, or .* required or all"):
        check_file(replace(CARD, class_ids="best", inputs=("image",)), 0.0)
    with pytest.raises(InputError, match="takes table beside the image"):
        check_file(replace(CARD, inputs=("image", "table", "class_ids")), 0.0)
    with pytest.raises(InputError, match="expected 0 to 1"):
        check_file(CARD, 1.5)


def test_images_of_another_size_than_stated(told: Runner, scenes: Path) -> None:
    batch, images = data_set(scenes, told)
    stated = [replace(images[0], size=(96, 111)), replace(images[1], size=None), *images[2:]]
    good, bad = checked(batch, stated)
    assert [each.number for each in good] == [*range(1, 7)]
    assert bad[0].reason == (
        "the image is 96 x 112 (height x width), its annotations are for 96 x 111"
    )
