"""Which classes are explained, by files that are told and by files that choose."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camcore.adapters.runner import Runner
from camcore.adapters.running.choice import check_choice, explain_chosen
from camcore.errors import InputError
from tests.adapters.toy import CARD

FILE = Path("toy.onnx")
SCORES = np.array([[0.5, 2.0, -1.0, 1.0], [3.0, 0.0, 2.0, 1.0]])


def runner(**card: Any) -> Runner:
    """A file whose map of class c is filled with c."""
    known = replace(CARD, **card)

    def graph(given: Any) -> Any:
        scores = SCORES[: len(given["image"])]
        classes = np.array([given["class_ids"][0] if known.takes_ids else known.own_ids])
        ranked = np.argsort(-scores)[:, : classes.shape[1]]
        classes = np.where(classes < 0, ranked, classes)
        return scores, classes, classes[..., None, None] * np.ones((5, 5))

    return Runner(known, "cpu", graph)


IMAGE = np.zeros((1, 3, 32, 32), dtype=np.float32)
OF_ITSELF = {"inputs": ("image",)}


@pytest.mark.parametrize(
    ("card", "classes", "top", "expected"),
    [
        ({}, [2, 0], 1, [2, 0]),
        ({}, [], 3, [1, 3, 0]),
        ({**OF_ITSELF, "class_ids": "best", "top": 2}, [], 1, [1, 3]),
        ({**OF_ITSELF, "class_ids": "all"}, [3], 1, [3]),
        ({**OF_ITSELF, "class_ids": "all"}, [], 2, [1, 3]),
    ],
)
def test_what_is_explained(card: Any, classes: Any, top: int, expected: list[int]) -> None:
    given = explain_chosen(runner(**card), IMAGE, classes, top, None)
    np.testing.assert_array_equal(given.classes, [expected])
    np.testing.assert_array_equal(given.saliency_map[0, :, 0, 0], expected)


@pytest.mark.parametrize("card", [{}, {**OF_ITSELF, "class_ids": "all"}])
def test_the_best_are_those_of_each_image(card: Any) -> None:
    given = explain_chosen(runner(**card), np.tile(IMAGE, (2, 1, 1, 1)), [], 2, None)
    np.testing.assert_array_equal(given.classes, [[1, 3], [0, 2]])
    np.testing.assert_array_equal(given.saliency_map[:, :, 0, 0], [[1, 3], [0, 2]])
    given = explain_chosen(runner(**card), np.tile(IMAGE, (2, 1, 1, 1)), [2], 1, None)
    np.testing.assert_array_equal(given.saliency_map[:, :, 0, 0], [[2], [2]])


def test_what_cannot_be_chosen() -> None:
    best = replace(CARD, **OF_ITSELF, class_ids="best", top=2)
    check_choice(FILE, best, [], 4)
    with pytest.raises(InputError, match=r"--class chooses .* explains the 2 best by itself"):
        check_choice(FILE, best, [1], None)
    with pytest.raises(InputError, match=r"--top 5, but toy\.onnx knows 4 classes"):
        check_choice(FILE, best, [], 5)
    pixels = runner(**OF_ITSELF, class_ids="all", options={"target": "segmentation"})
    with pytest.raises(InputError, match="name some with --class"):
        explain_chosen(pixels, IMAGE, [], 1, None)
