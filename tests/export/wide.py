"""A model of large weights."""

from pathlib import Path

import torch
from torch import nn

from camcore.export import explain, save
from tests.export.models import build


class Wide(nn.Module):
    """Weights large enough that a second copy would show, in layers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 96, 3, stride=2)
        self.deep = nn.Conv2d(96, 128, 3, padding=1)
        self.strided = nn.Conv2d(128, 128, 3, stride=2, groups=2)
        self.hidden = nn.Linear(128, 256)
        self.fc = nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.strided(self.deep(self.stem(x).relu()).relu()).relu().mean((2, 3))
        return self.fc(self.hidden(x).relu())  # type: ignore[no-any-return]


def save_wide(folder: Path, suffix: str) -> Path:
    path = folder / f"wide{suffix}"
    save(explain(build(Wide), torch.zeros(1, 3, 96, 96), layer="stem"), path)
    return path


def check_size(path: Path) -> None:
    """The weights and a graph, not the example; a graph takes .pt2 a quarter of a megabyte."""
    assert weight_bytes() > 900_000
    assert weight_bytes() < path.stat().st_size < 1.1 * weight_bytes() + 300_000


def weight_bytes() -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in Wide().parameters())
