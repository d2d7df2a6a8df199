"""The boxes that files are compared with are OpenCV's, and nothing of the kernels is in them."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from camcore.errors import ProofError
from camcore.export import Explained, explain
from camcore.export.prove import boxes as reference
from camcore.export.prove.boxes import box_means, expected_boxes, likelihoods, prove_boxes
from tests.camcore.masks import random_map, random_mask
from tests.camcore.test_boxes import components, unpadded
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, images


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 24), width=st.integers(1, 24))
def test_regions_are_opencvs_components(seed: int, height: int, width: int) -> None:
    mask = random_mask(np.random.default_rng(seed), height, width)
    # Of two levels alone there is one way to part them.
    (boxes,) = expected_boxes(mask.astype(np.float32), 600)
    assert sorted(unpadded(boxes)) == sorted(box for _, box in components(mask))
    (few,) = expected_boxes(mask.astype(np.float32), 3)
    assert unpadded(few) == unpadded(boxes)[:3]


@given(seed=st.integers(0, 2**32 - 1))
def test_opencvs_threshold_is_among_the_best(seed: int) -> None:
    saliency_map = random_map(np.random.default_rng(seed), 20, 16)
    _, mask = cv2.threshold(np.uint8(255 * saliency_map), 0, 255, cv2.THRESH_OTSU)
    theirs = sorted(box for _, box in components(mask))
    found = [sorted(unpadded(boxes)) for boxes in expected_boxes(saliency_map, 300)]
    assert theirs in found
    assert len(found) <= 2


def test_both_ways_are_good_where_they_are_equal() -> None:
    """The pixel in the middle is as far from the one as from the other."""
    first, second = expected_boxes(np.array([[0, 100, 200]], dtype=np.float32) / 255, 1)
    assert first.tolist() == [[1, 0, 3, 1]]
    assert second.tolist() == [[2, 0, 3, 1]]
    (only,) = expected_boxes(np.array([[0, 101, 200]], dtype=np.float32) / 255, 1)
    assert only.tolist() == [[1, 0, 3, 1]]


@pytest.mark.parametrize(("value", "box"), [(0.0, [-1] * 4), (0.5, [0, 0, 4, 3])])
def test_a_constant_map(value: float, box: list[int]) -> None:
    (boxes,) = expected_boxes(np.full((3, 4), value, dtype=np.float32), 2)
    assert boxes.tolist() == [box, [-1] * 4]


def test_means() -> None:
    saliency_map = np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32)
    means = box_means(saliency_map, np.array([[0, 0, 2, 1], [-1, -1, -1, -1]], dtype=np.float32))
    np.testing.assert_allclose(means, [0.15, 0])


@pytest.fixture(scope="module")
def explained(small_net: nn.Module) -> Explained:
    return explain(small_net, EXAMPLE, layer=LAYER, boxes=3)


CHANGES: dict[str, tuple[Callable[..., Any], str]] = {
    "a pixel to the right": (lambda boxes, scores: (boxes + 1, scores), "finds the boxes"),
    "in another order": (lambda boxes, scores: (boxes.flip(2), scores), "finds the boxes"),
    "those of the other image": (lambda boxes, scores: (boxes.flip(0), scores), "finds the boxes"),
    "larger scores": (lambda boxes, scores: (boxes, scores * 1.001), r"box_scores .* by 1\.0e-03"),
    "no scores": (lambda boxes, scores: (boxes, scores * torch.nan), "box_scores .* by nan"),
    "one box less": (
        lambda boxes, scores: (boxes[:, :, 1:], scores[:, :, 1:]),
        r"gives boxes \(2, 2, 2, 4\) and box_scores \(2, 2, 2\) for maps \(2, 2",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_wrong_with_boxes_is_seen(name: str, explained: Explained) -> None:
    change, match = CHANGES[name]
    with torch.no_grad():
        scores, classes, maps, *found = explained(images(1, 2, 24, 24), torch.tensor([[3, 1]]))
    likely = likelihoods(explained.request, scores, classes)
    torch.testing.assert_close(likely, scores.double().softmax(dim=1).gather(1, classes))
    boxes, box_scores = found
    right = prove_boxes(explained.request, maps, (boxes, box_scores), likely, 1e-4)
    assert right < 1e-5
    with pytest.raises(ProofError, match=match):
        prove_boxes(explained.request, maps, change(boxes, box_scores), likely, 1e-4)


def test_nothing_of_the_kernels_is_used() -> None:
    tree = ast.parse(Path(str(reference.__file__)).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not modules & {"camcore", "camcore.boxes", "camcore.export.boxes"}
