"""A stand-in for camcore.export, with which the command line is quick."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from camcore.card import Card
from camcore.export.find.layers import LayerInfo
from tests.adapters.toy import CARD, write_toy


class FakeExport(ModuleType):
    """Stands in for camcore.export, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__("camcore.export")
        self.asked: dict[str, Any] = {}
        self.error: Exception | None = None
        self.classes = 1000

    def explain(self, model: torch.nn.Module, example: torch.Tensor, **options: Any) -> str:
        self.asked = {"model": model, "example": example, **options}
        if self.error is not None:
            raise self.error
        return "explained"

    def count_classes(self, model: torch.nn.Module, example: torch.Tensor, **options: Any) -> int:
        return self.classes

    def is_detector(self, model: torch.nn.Module) -> bool:
        return False

    def save(self, explained: str, path: Path, *, check: Any = None) -> Card:
        assert explained == "explained"
        assert check is None  # as of all sources but files
        card = replace(CARD, model=self.asked["model_name"], notes=("this [and] that",))
        write_toy(path, card)
        return card

    def list_layers(self, model: torch.nn.Module, example: torch.Tensor) -> Sequence[LayerInfo]:
        self.asked = {"model": model, "example": example}
        return [
            LayerInfo("stem", "Conv2d", (16, 112, 112), True, False, ""),
            LayerInfo("layer4", "Sequential", (512, 7, 7), True, True, "the last one"),
            LayerInfo("fc", "Linear", (1000,), False, False, "no image grid"),
        ]
