"""Small networks, and their files by PyTorch's two exporters."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIZE = 24


class Block(nn.Module):
    """Two convolutions beside which the image passes, and one ReLU that is called twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.uniform_(self.bn1.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer1(self.stem(x)).mean((2, 3)))


class Attending(nn.Module):
    """A token before the image's, and attention over the batch's second axis, as PyTorch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).transpose(1, 2)
        rows = torch.cat([self.token.expand(len(rows), -1, -1), rows], dim=1)
        rows = rows + self.attention(rows, rows, rows, need_weights=False)[0]
        return self.head(rows[:, 0])


def export(model: nn.Module, path: Path, *, dynamo: bool, size: int = SIZE, **options: Any) -> None:
    own: dict[str, Any] = {"dynamo": dynamo}
    own |= {"verbose": False, "external_data": False} if dynamo else {"opset_version": 14}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an exporter that is deprecated
        torch.onnx.export(model, (torch.randn(1, 3, size, size),), path, **(own | options))
