from pathlib import Path

import pytest
import torch

from camcore.adapters.runner import Explanation, load
from tests.adapters.runner.given import image
from tests.adapters.toy import CARD


def test_explanation_is_attributes_and_items(toy_folder: Path) -> None:
    given = load(toy_folder / "toy.onnx")(image())
    assert tuple(given) == CARD.outputs
    assert len(given) == 3
    assert given["scores"] is given.scores
    with pytest.raises(AttributeError, match="boxes"):
        given.boxes  # type: ignore[attr-defined]  # noqa: B018
    assert Explanation({"boxes": 1, "scores": 2})["boxes"] == 1


def test_repr_says_what_there_is(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    assert repr(runner) == (
        "<Runner: gradcam of toy at features, 4 classes, on cpu; call it with float32 (B, 3, H, W)>"
    )
    assert repr(runner(image(), [2, -1])) == (
        "<Explanation: scores float32 (2, 4), classes int64 (2, 2) [[2, 3], [2, 3]], "
        "saliency_map float32 (2, 2, 8, 9)>"
    )
    assert "saliency_map float32 (1, 1, 8, 9)" in repr(runner(torch.from_numpy(image(1))))
