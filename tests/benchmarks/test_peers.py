"""Peers are asked the same question: the same model, layer, image and class."""

import numpy as np
import pytest
from torch import Tensor, nn
from torch.nn import functional as F

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
