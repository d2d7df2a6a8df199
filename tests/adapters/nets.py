"""Models in small whose inputs or outputs are not those of a plain classifier."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Segmenter(nn.Module):
    """Scores for each pixel, and those of an auxiliary head, as torchvision's models give them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 3, 1)
        self.aux_head = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image)
        size = image.shape[2:]
        return {
            name: F.interpolate(head(features), size, mode="bilinear", align_corners=False)
            for name, head in (("out", self.head), ("aux", self.aux_head))
        }


class WithTable(nn.Module):
    """A picture and a row of numbers in, an embedding and the classes' scores out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(8 + 2, 4)

    def forward(self, image: Tensor, table: Tensor) -> dict[str, Tensor]:
        embedding = self.features(image).mean((2, 3))
        return {"embedding": embedding, "logits": self.fc(torch.cat([embedding, table], 1))}


class WithMask(nn.Module):
    """A picture in, and which channels of the layer count."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, image: Tensor, kept: Tensor) -> Tensor:
        features = self.features(image).relu() * kept[:, :, None, None]
        scores: Tensor = self.fc(features.mean((2, 3)))
        return scores


class TwoHeads(nn.Module):
    """Scores of three species, and of three breeds."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.species, self.breed = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        pooled = self.features(image).mean((2, 3))
        return {"species": self.species(pooled), "breed": self.breed(pooled)}


def build_two_heads() -> nn.Module:
    torch.manual_seed(2)
    return TwoHeads()


def build_segmenter() -> nn.Module:
    torch.manual_seed(0)
    return Segmenter()


def build_with_table() -> nn.Module:
    torch.manual_seed(1)
    return WithTable()


def build_with_mask() -> nn.Module:
    torch.manual_seed(4)
    return WithMask()


def build_painter() -> nn.Module:
    """Ten channels, and a tail behind them that is not linear."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 10, 3),
        nn.ReLU(),
        nn.Conv2d(10, 6, 3),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
