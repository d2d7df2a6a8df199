"""What is timed finds the same, and is told."""

from typing import Any

import numpy as np
import pytest

from benchmarks.detectors import CASES, Case, check, render
from benchmarks.timing import compare


def test_only_what_finds_the_same_is_timed() -> None:
    case = Case("ssd", None, detections=2)
    boxes, labels, scores = np.zeros((2, 4)), np.zeros(2), np.array([0.9, 0.8])
    plain: Any = (boxes, labels, scores)
    check(plain, (*plain, np.zeros((2, 8, 8))), case)
    with pytest.raises(ValueError, match="1 maps, expected 2"):
        check(plain, (*plain, np.zeros((1, 8, 8))), case)
    with pytest.raises(AssertionError):
        check(plain, (boxes, labels, scores + 0.01, np.zeros((2, 8, 8))), case)


def test_the_table() -> None:
    rows = {CASES[3]: compare([1.0, 1.0, 1.0], [1.1, 1.2, 1.3])}
    text = render(rows, 320, {"cores": 2})
    assert (
        "| retinanet_resnet50_fpn | backbone | gradcam | 20 | 1.20x (1.15 to 1.25) | 1000 |" in text
    )
    assert "Measured on: cores 2." in text
