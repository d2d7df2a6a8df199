"""What is timed is right, and told."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.boxes import COUNT, FromMapToBoxes, check, maps, render
from benchmarks.timing import compare


def session(change: Callable[[np.ndarray], Any] = lambda boxes: boxes) -> Any:
    def run(image: np.ndarray) -> Sequence[np.ndarray]:
        boxes, scores = FromMapToBoxes()(torch.as_tensor(image))
        return change(boxes.numpy()), scores.numpy()

    return run


@pytest.mark.parametrize("name", maps(8))
def test_only_what_is_right_is_timed(name: str) -> None:
    saliency_map = maps(33)[name]
    assert saliency_map.shape == (33, 33)
    assert saliency_map.min() == pytest.approx(0, abs=0.01)
    check(saliency_map, session())
    for change in (lambda boxes: boxes + 1, lambda boxes: np.full_like(boxes, -1)):
        with pytest.raises(ValueError, match="OpenCV's largest"):
            check(saliency_map, session(change))


def test_the_table() -> None:
    text = render({"a spiral": compare([1.0, 1.0, 1.0], [0.1, 0.2, 0.3])}, {"cores": 2})
    assert f"of the {COUNT} largest" in text
    assert "| a spiral | 0.200x (0.150 to 0.250) | 200.0 |" in text
    assert "Measured on: cores 2." in text
