"""Peers are asked the same question: the same model, layer, image and class."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Permute

from benchmarks.files import map_difference
from benchmarks.peers import NAMES, peers
from camcore.export import explain
from tests.export.models import build, images


class Backbone(nn.Module):
    """Returns a record, as the backbones of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.last = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU())

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"features": self.last(self.stem(image).relu())}


class Net(nn.Module):
    """Returns its scores, or with `pixels` its scores per pixel, in a record."""

    def __init__(self, pixels: bool) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Conv2d(8, 5, 1)
        self.pixels = pixels

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.head(self.backbone(image)["features"])
        if self.pixels:
            found = F.interpolate(found, size=image.shape[2:], mode="bilinear")
        return {"answer": found if self.pixels else found.mean((2, 3))}


@pytest.mark.parametrize("target", ["logit", "segmentation"])
def test_all_give_the_same_map(target: str) -> None:
    image = images(1, 1, 32, 32)
    model = build(lambda: Net(pixels=target == "segmentation"))
    explained = explain(model, image, layer="backbone", target=target)
    ours = explained(image).saliency_map[0, 0].numpy()
    asked = []
    for library, theirs in peers("gradcam", explained, image):
        asked.append(library)
        # As often as a benchmark may want it.
        for _ in range(2):
            assert map_difference(ours, np.squeeze(theirs())) < 1e-4, library
    known = list(NAMES["gradcam"])
    assert asked == (known if target == "logit" else ["pytorch-grad-cam"])
    # No hook is left behind.
    assert not any(module._forward_hooks for module in model.modules())


class Turned(nn.Module):
    """Its last layer returns a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.last = Permute([0, 3, 1, 2])
        self.head = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        features = self.last(torch.tanh(self.stem(image)).permute(0, 2, 3, 1))
        return self.head(features.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["gradcam", "finercam", "shapleycam"])
def test_layers_that_return_views(method: str) -> None:
    image = images(1, 1, 32, 32)
    model = build(Turned)
    explained = explain(model, image, layer="last", method=method)
    ours = explained(image).saliency_map[0, 0].numpy()
    for library, theirs in peers(method, explained, image):
        if library == "pytorch-grad-cam":
            assert map_difference(ours, np.squeeze(theirs())) < 1e-4
    assert not any(module._forward_hooks for module in model.modules())


class Squeezed(nn.Module):
    """Its head is one linear layer, but not the only one of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.squeeze, self.last = nn.Linear(6, 6), nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(image)
        features = features * self.squeeze(features.mean((2, 3)))[..., None, None]
        return self.head(self.last(features).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_library_that_cannot_says_so_when_asked() -> None:
    image = images(1, 1, 32, 32)
    explained = explain(build(Squeezed), image, method="cam")
    ((library, theirs),) = peers("cam", explained, image)
    assert library == "TorchCAM"
    with pytest.raises(ValueError, match="multiple fully connected layers"):
        theirs()
