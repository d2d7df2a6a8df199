from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camcore.adapters import Explanation, stream
from camcore.adapters.evaluation.annotations import AnnotatedImage
from camcore.adapters.evaluation.detections import predict_detections
from camcore.adapters.images import prepare
from camcore.card import Card, ImageSpec

CARD = Card(
    "hirescam",
    "backbone",
    ImageSpec(20, 20, mean=(0.0,) * 3, std=(1.0,) * 3),
    3,
    ("boxes", "labels", "scores", "detection_maps"),
    ("image",),
)


class FakeRunner:
    """Finds one object twice, another of the wrong label, and one without a map."""

    card = CARD
    scores = np.array([0.9, 0.8, 0.7, 0.3], np.float32)

    def __call__(self, image: Any) -> Explanation[Any]:
        maps = np.zeros((3, 20, 20), np.float32)
        maps[0, 4, 4] = maps[1, 15, 15] = maps[2, 4, 4] = 1
        boxes = np.array([[2, 2, 8, 8], [2, 2, 8, 9], [10, 10, 18, 18], [2, 2, 8, 8]], np.float32)
        labels = np.array([1, 1, 1, 2])
        named = {"boxes": boxes, "labels": labels, "scores": self.scores, "detection_maps": maps}
        return Explanation(named)


@pytest.fixture
def told() -> Any:
    pixels = np.zeros((20, 20, 3), np.uint8)
    prepared = stream.Prepared(0, Path("a.png"), pixels, *prepare(pixels, replace(CARD.image)))
    boxes = np.array([[2.0, 2, 8, 8], [10, 10, 18, 18]])
    no = np.zeros(2, np.bool_)
    return [prepared], [AnnotatedImage("a.png", Path("a.png"), boxes, np.array([1, 2]), no)]


def test_an_object_is_found_once(told: Any) -> None:
    (entry,) = predict_detections(FakeRunner(), *told, 0.0)  # type: ignore[arg-type]
    assert [(each["class"], each["off"]) for each in entry["objects"]] == [(1, 0)]
    assert [(each["class"], len(each["boxes"])) for each in entry["predictions"]] == [
        (1, 3),
        (2, 1),
    ]


def test_above_a_score(told: Any) -> None:
    (entry,) = predict_detections(FakeRunner(), *told, 0.85)  # type: ignore[arg-type]
    assert [each["scores"] for each in entry["predictions"]] == [[0.9]]
    (entry,) = predict_detections(FakeRunner(), *told, 0.95)  # type: ignore[arg-type]
    assert entry == {"image": "a.png", "predictions": [], "objects": []}
