"""Exported on one image, right on others: torchvision's families against eager PyTorch.

The files are run on content, batch sizes, classes and, where they are free, image sizes other than
the example's.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from camcore.export import explain, save
from tests.export.models import build, images
from tests.export.oracle import assert_follows, run_file


class Case(NamedTuple):
    """A builder of torchvision and what to export of it; layer None is the default one."""

    model: str
    layer: str | None = None
    size: int = 64
    suffix: str = ".onnx"
    dynamic_size: bool | None = None

    def __str__(self) -> str:
        return f"{self.model}-{self.layer or 'default'}{self.suffix}"


def make(name: str) -> nn.Module:
    options = {"init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    if name in {"googlenet", "inception_v3"}:
        # The auxiliary heads take no part in a prediction.
        options["aux_logits"] = False
    return torchvision.models.get_model(name, weights=None, num_classes=11, **options)


def check(case: Case, folder: Path) -> None:
    size = (case.size, case.size)
    model = build(lambda: make(case.model), shape=(3, *size))
    example = images(0, 1, *size)
    explained = explain(model, example, layer=case.layer, dynamic_size=case.dynamic_size)
    path = folder / f"model{case.suffix}"
    save(explained, path)
    free = explained.card.image.height is None
    assert free == (case.dynamic_size is not False)

    grown = (case.size + 32, case.size + 9) if free else size
    image, ids = images(1, 2, *grown), torch.tensor([[-1, 7]])
    given = run_file(path, image, ids)
    assert_follows(given, model, explained.card.layer, image, ids)

    other, ids = images(2, 3, *size), torch.tensor([[4], [-1], [0]])
    assert_follows(run_file(path, other, ids), model, explained.card.layer, other, ids)

    # Not only near their own references: the maps follow the image.
    again = run_file(path, images(3, 2, *grown), torch.tensor(given.classes))
    assert np.abs(again.saliency_map - given.saliency_map).max() > 0.05


FAST = [
    Case("resnet18", "layer4"),
    Case("resnet18", "layer4", suffix=".pt"),
    Case("resnet18", "layer2"),
    Case("resnet18", "layer2", suffix=".pt"),
    Case("resnet18", "layer2", suffix=".pt2"),
    Case("alexnet", "features.10", size=128),
    Case("mobilenet_v2"),
    Case("squeezenet1_1"),
]

LAYERS = [
    ("resnet50", "layer3", 64),
    ("vgg16", "features.16", 64),
    ("googlenet", "inception4a", 64),
    ("resnext50_32x4d", "layer3", 64),
    ("wide_resnet50_2", "layer3", 64),
    ("shufflenet_v2_x1_0", "stage3", 64),
    ("mnasnet1_0", "layers.10", 64),
    ("mobilenet_v2", "features.10", 64),
    ("mobilenet_v3_large", "features.10", 64),
    ("densenet121", "features.denseblock3", 64),
    ("efficientnet_b0", "features.5", 64),
    ("regnet_y_400mf", "trunk_output.block3", 64),
    ("convnext_tiny", "features.5", 64),
]

SLOW = [
    Case(name, layer, size, suffix)
    for name, earlier, size in LAYERS
    for layer in (None, earlier)
    for suffix in (".onnx", ".pt", ".pt2")
] + [
    # With free height and width torch.export does not come to an end.
    Case("inception_v3", layer, 299, suffix, dynamic_size=False)
    for layer in ("Mixed_7c", "Mixed_6a")
    for suffix in (".onnx", ".pt", ".pt2")
]


@pytest.mark.parametrize("case", FAST, ids=str)
def test_family(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_long_list(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
