from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from camcore.adapters import Explanation
from camcore.adapters.cli.record import image_record
from camcore.adapters.images import Placement, prepare, read_image
from tests.adapters.toy import CARD


def test_map_that_is_zero_has_no_peak(photos: list[Path]) -> None:
    scores, classes = np.array([[1.0, 2.0, 0.0, 0.0]]), np.array([[1]])
    maps = {"scores": scores, "classes": classes, "saliency_map": np.zeros((1, 1, 4, 4))}
    explanation = Explanation(maps)
    _, placement = prepare(read_image(photos[0]), CARD.image)
    result = image_record(photos[0], explanation, placement, CARD, 3)
    assert result["explained"] == [{"class": 1, "name": "dog", "score": 2.0, "peak": None}]


def test_peak_of_a_map_as_the_method_gives_it(photos: list[Path]) -> None:
    """Below zero everywhere, and highest in the last corner."""
    raw = np.linspace(-3, 5, 12, dtype=np.float32).reshape(3, 4)
    card = replace(CARD, options={"normalize": False})
    explanation = Explanation(
        {
            "scores": np.zeros((1, 4)),
            "classes": np.array([[1]]),
            "saliency_map": raw[None, None] - 9,
        }
    )
    _, placement = prepare(read_image(photos[0]), CARD.image)
    (explained,) = image_record(photos[0], explanation, placement, card, 3)["explained"]
    x, y = placement.points_to_original(np.array([3.5, 2.5]), (3, 4))
    assert explained["peak"] == {"x": pytest.approx(x, abs=0.06), "y": pytest.approx(y, abs=0.06)}


def test_boxes_in_the_pixels_of_the_image(photos: list[Path]) -> None:
    """Without padding, and without what lies in the black margin of a crop."""
    padding = [-1.0] * 4
    explanation = Explanation(
        {
            "scores": np.zeros((1, 4)),
            "classes": np.array([[1, 3]]),
            "saliency_map": np.zeros((1, 2, 10, 20)),
            "boxes": np.array([[[[4.0, 1, 20, 9], [0, 0, 2, 10], padding], [padding] * 3]]),
            "box_scores": np.array([[[0.75, 0.5, 0], [0, 0, 0]]], dtype=np.float32),
        }
    )
    placement = Placement(-10, 0, 90, 50, height=50, width=80)
    first, second = image_record(photos[0], explanation, placement, CARD, 3)["explained"]
    assert first["boxes"] == [{"box": [10.0, 5.0, 80.0, 45.0], "score": 0.75}]
    assert second["boxes"] == []
