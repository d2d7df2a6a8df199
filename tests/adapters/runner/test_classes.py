from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from camcore.adapters.runner import class_index, class_probabilities, class_scores
from camcore.adapters.runner.classes import class_indices
from camcore.card import Card
from camcore.errors import InputError, UnknownNameError
from camcore.export.trace.targets import TARGETS
from tests.adapters.toy import CARD


def shaped(card: Card, **shapes: tuple[int, ...]) -> Any:
    """The scores among outputs of these shapes, of which each holds its number alone."""
    outputs = {name: np.full(shape, n) for n, (name, shape) in enumerate(shapes.items())}
    outputs |= {"classes": np.zeros((2, card.num_classes)), "saliency_map": np.zeros((2, 1, 4, 4))}
    return class_scores(replace(card, outputs=tuple(outputs)), outputs)


def test_scores_are_told_by_their_name_or_else_by_their_shape() -> None:
    assert (shaped(CARD, embedding=(2, 8), logits=(2, 4), hidden=(2, 4, 4)) == 1).all()
    assert shaped(CARD, scores=(2, 4)).shape == (2, 4)
    assert shaped(CARD, embedding=(2, 8)) is None
    assert shaped(CARD, out=(2, 4, 6, 6), aux=(2, 4, 6, 6)) is None
    assert shaped(CARD, left=(2, 4), right=(2, 4)) is None
    chosen = replace(CARD, explained="right")
    assert (shaped(chosen, left=(2, 4), right=(2, 4)) == 1).all()
    assert shaped(chosen, left=(2, 4), right=(2, 4, 6, 6)) is None
    one = replace(CARD, num_classes=1)
    assert shaped(one, scores=(2,)).shape == (2, 1)
    assert shaped(one, scores=(2, 1)).shape == (2, 1)


@pytest.mark.parametrize("target", TARGETS)
def test_scores_of_targets_whose_classes_are_the_models(target: str) -> None:
    card = replace(CARD, options={"target": target})
    assert (shaped(card, scores=(2, 4)) is None) == (target in ("binary", "segmentation"))


def test_scores_of_a_yes_or_no_are_those_of_two_classes() -> None:
    card = replace(CARD, num_classes=2, options={"target": "binary"})
    given = {"scores": np.array([[1.5], [-2.0]]), "classes": np.zeros((2, 1))}
    scores = class_scores(card, given)
    np.testing.assert_array_equal(scores, [[-1.5, 1.5], [2.0, -2.0]])
    assert scores is not None
    probabilities = class_probabilities(card, scores)
    yes = 1 / (1 + np.exp([-1.5, 2.0]))
    np.testing.assert_allclose(probabilities, np.stack([1 - yes, yes], 1), rtol=1e-12)


def test_probabilities_are_made_as_the_card_says() -> None:
    scores = np.array([[1.0, 2.0, 0.5, -900.0], [900.0, 0.0, 0.0, 0.0]])
    softmax = torch.softmax(torch.from_numpy(scores), 1).numpy()
    sigmoid = torch.sigmoid(torch.from_numpy(scores)).numpy()
    for kind, expected in ((None, softmax), ("softmax", softmax), ("sigmoid", sigmoid)):
        card = replace(CARD, probabilities=kind)  # type: ignore[arg-type]
        np.testing.assert_allclose(class_probabilities(card, scores), expected, atol=1e-12)
    assert class_probabilities(replace(CARD, probabilities="scores"), scores) is scores
    assert class_probabilities(replace(CARD, probabilities="none"), scores) is None
    assert class_probabilities(replace(CARD, options={"target": "value"}), scores) is None


def test_scores_of_a_target_of_ones_own() -> None:
    assert shaped(replace(CARD, options={"target": "ratio"}), scores=(2, 4)) is None


def test_class_index() -> None:
    assert class_index(CARD, "boxer") == 2
    assert class_index(CARD, "Boxer") == 2
    assert class_index(CARD, "1") == 1
    assert class_index(CARD, "42") == 3  # a name before an index
    with pytest.raises(UnknownNameError, match=r"unknown class 'boxr'; nearest: boxer.*0 to 3"):
        class_index(CARD, "boxr")
    with pytest.raises(UnknownNameError, match=r"classes are 0 to 3"):
        class_index(CARD, "4")
    with pytest.raises(UnknownNameError, match="carries no class names"):
        class_index(replace(CARD, class_names=None), "boxer")


def test_names_among_class_ids() -> None:
    assert class_indices(CARD, "boxer") == 2
    assert class_indices(CARD, [["boxer", 0], (-1, "1")]) == [[2, 0], [-1, 1]]
    with pytest.raises(UnknownNameError, match="unknown class 'boxr'"):
        class_indices(CARD, [0, "boxr"])
    ids = np.array([1, 2])
    assert class_indices(CARD, ids) is ids
    assert class_indices(CARD, None) is None


def test_class_name_of_several_classes() -> None:
    card = replace(CARD, class_names=("crane", "dog", "Crane", "crane"))
    assert class_index(card, "Crane") == 2  # as it is written
    assert class_index(card, "DOG") == 1
    assert class_index(card, "3") == 3
    with pytest.raises(InputError, match="2 classes are called 'crane': give an index, 0, 3"):
        class_index(card, "crane")
    with pytest.raises(InputError, match="3 classes are called 'CRANE': give an index, 0, 2, 3"):
        class_index(card, "CRANE")
