"""Grad-CAM by hand: the values that Captum's own tests expect of its LayerGradCam.

Its test model is a convolution, a ReLU and a linear layer with weights of ones, whose gradients are
sums of a few numbers. Not carried over are layers without spatial axes, for which there is no map,
attributions to a layer's input, and maps of single channels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.export import Explained, explain
from camcore.export.write.capture import capture
from camcore.export.write.write import WRITERS
from tests.export.oracle import run_any_file


class OneConvolution(nn.Module):
    """Two channels from windows of nine points, and four scores from their eight values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, 4)
        with torch.no_grad():
            self.conv.weight.fill_(1)
            self.conv.bias.copy_(torch.tensor([-50.0, -75.0]))  # type: ignore[union-attr]
            self.fc.weight.fill_(1)[:, 5:] = -1
            self.fc.bias.zero_()

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        x = x if more is None else x + more
        x = self.relu(self.conv(x)).flatten(1)
        return self.fc(x).relu()  # type: ignore[no-any-return]


COUNTED = torch.arange(16.0).reshape(1, 1, 4, 4)
ONES = torch.ones(1, 1, 4, 4)
# Layer, inputs, and the map.
EXPECTED: list[tuple[str, tuple[Tensor, ...], list[list[float]]]] = [
    ("conv", (COUNTED,), [[11.25, 13.5], [20.25, 22.5]]),
    ("relu", (COUNTED,), [[0.0, 4.0], [28.0, 32.5]]),
    ("conv", (COUNTED, ONES), [[14.5, 19.0], [32.5, 37.0]]),
]


def explained(layer: str, inputs: tuple[Tensor, ...]) -> Explained:
    examples = tuple(torch.zeros_like(value) for value in inputs)
    how: dict[str, Any] = {"relu": False, "normalize": False, "full_size": False}
    return explain(OneConvolution().eval(), examples, layer=layer, dynamic_size=False, **how)


@pytest.mark.parametrize(("layer", "inputs", "expected"), EXPECTED)
def test_the_map_by_hand(layer: str, inputs: tuple[Tensor, ...], expected: Any) -> None:
    found = explained(layer, inputs)(*inputs, torch.tensor([[0]])).saliency_map
    assert found[0, 0].tolist() == expected


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_map_by_hand_in_files(suffix: str, tmp_path: Path) -> None:
    """Not by `save`: on the proof's random images this ReLU lets nothing through."""
    layer, inputs, expected = EXPECTED[0]
    module = explained(layer, inputs)
    path = tmp_path / f"model{suffix}"
    path.write_bytes(WRITERS[suffix](capture(module), module.card))
    # Another image beside it, so that nothing is the example's.
    image = torch.cat([inputs[0] * 2, inputs[0]])
    *_, maps = run_any_file(path, image, torch.tensor([[0], [0]])).values()
    np.testing.assert_array_equal(maps[1, 0], expected)
    assert not np.array_equal(maps[0, 0], expected)
