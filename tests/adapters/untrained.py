"""A classifier of the painted shapes that has learnt nothing, and its files, with boxes."""

from pathlib import Path

import torch
from torch import Tensor, nn

from camcore.adapters.demo import CLASS_NAMES
from camcore.card import ImageSpec
from camcore.export import explain, save

SPEC = ImageSpec(None, None, mean=(0.5,) * 3, std=(0.25,) * 3, resize=80)


class Spots(nn.Module):
    """Eight classes of colours and edges, untrained, with maps of several regions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 5, stride=4, padding=2), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1)
        )
        self.fc = nn.Linear(12, len(CLASS_NAMES))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.features(image).relu().mean((2, 3)))
        return scores


def build_spots() -> nn.Module:
    """The same each time; it says how its images are prepared and what its classes are."""
    torch.manual_seed(5)
    model = Spots().eval()
    model.image_spec, model.class_names = SPEC, CLASS_NAMES  # type: ignore[assignment]
    return model


def write_spots(
    path: Path, class_ids: str, *, boxes: int | None = 4, top: int | None = None
) -> Path:
    explained = explain(
        build_spots(),
        torch.zeros(2, 3, 96, 96),
        layer="features",
        class_ids=class_ids,
        top=top,
        boxes=boxes,
        box_confidence="sigmoid" if boxes else None,
        probabilities="sigmoid",
        class_names=CLASS_NAMES,
        image_spec=SPEC,
        dynamic_size=True,
    )
    save(explained, path)
    return path
