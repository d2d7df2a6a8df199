"""An explained module becomes one program, or is told why not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export import Explained, explain, save
from camcore.export.write.capture import capture
from tests.export.models import Classifier, build, images
from tests.export.oracle import (
    TOLERANCE,
    run_any_file,
    worst_error,
)


class Bottleneck(nn.Module):
    """A block of a ResNet that halves its map, in two ways that have to meet again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()  # type: ignore[no-any-return]


@pytest.mark.slow
def test_gradients_of_sizes_that_are_seen_to_meet_with_an_example_alone(tmp_path: Path) -> None:
    model = build(
        lambda: Classifier(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Bottleneck(4), Bottleneck(4)), 4)
    )
    explained = explain(model, torch.zeros(1, 3, 48, 48), method="fullgrad")
    assert explained.card.image.height is None
    save(explained, tmp_path / "model.onnx")
    image, ids = images(3, 2, 61, 50), torch.tensor([[1, 0], [3, 2]])
    *_, maps = run_any_file(tmp_path / "model.onnx", image, ids).values()
    expected = explained(image, ids).saliency_map.detach().numpy()
    assert worst_error(maps, expected) < TOLERANCE
    assert np.abs(maps[0] - maps[1]).max() > 0.05


def test_a_graph_that_cannot_be_captured(
    explained: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ValueError("it went wrong\nfor reasons")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ExportError, match=r"cannot be exported: it went wrong$"):
        capture(explained)
