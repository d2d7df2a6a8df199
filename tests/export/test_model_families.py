"""Exported on one image, right on others: whole families of models against eager PyTorch.

The files are run on content, batch sizes, classes and, where they are free, image sizes other than
the example's.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.families import FAMILIES, Family
from camcore.export import explain, save
from tests.export.models import images
from tests.export.oracle import TOLERANCE, assert_follows, run_file

FORMATS = (".onnx", ".pt", ".pt2")


class Case(NamedTuple):
    """A family and what to export of it; layer None is the default one."""

    model: str
    layer: str | None = None
    suffix: str = ".onnx"

    def __str__(self) -> str:
        return f"{self.model}-{self.layer or 'default'}{self.suffix}"


# What is explained unless another layer is asked for, and how it lies.
DEFAULTS = {
    "alexnet": ("features", ""),
    "vgg16": ("features", ""),
    "vgg19": ("features", ""),
    # The classifier's convolution makes a map for each class: what is pooled is the answer.
    "squeezenet1_1": ("classifier.2", ""),
    "resnet18": ("layer4", ""),
    "resnet50": ("layer4", ""),
    "resnet101": ("layer4", ""),
    "resnext50_32x4d": ("layer4", ""),
    "wide_resnet50_2": ("layer4", ""),
    "densenet121": ("features", ""),
    "googlenet": ("inception5b", ""),
    "inception_v3": ("Mixed_7c", ""),
    "mobilenet_v2": ("features", ""),
    "mobilenet_v3_large": ("features", ""),
    "shufflenet_v2_x1_0": ("conv5", ""),
    "mnasnet1_0": ("layers", ""),
    "efficientnet_b0": ("features", ""),
    "efficientnet_v2_s": ("features", ""),
    "regnet_y_400mf": ("trunk_output", ""),
    "convnext_tiny": ("features", ""),
    "vit_b_16": ("encoder.layers.encoder_layer_11.ln_1", "4 x 4 tokens behind 1 other"),
    "swin_t": ("permute", ""),
    "swin_v2_t": ("permute", ""),
    "maxvit_t": ("blocks.3", ""),
    "fcn_resnet50": ("classifier.2", ""),
    "deeplabv3_resnet50": ("classifier.3", ""),
    "lraspp_mobilenet_v3_large": ("classifier.cbr", ""),
    "timm/resnet18": ("layer4", ""),
    "timm/convnext_atto": ("stages", ""),
    "timm/vit_little_patch16_reg1_gap_256": ("blocks", "4 x 4 tokens behind 1 other"),
    "timm/vit_small_patch16_dinov3": ("norm", "4 x 4 tokens behind 5 others"),
    "timm/swin_tiny_patch4_window7_224": ("norm", "channels last"),
    "timm/efficientformer_l1": ("norm", "7 x 7 tokens"),
    "timm/cait_xxs24_224": ("blocks_token_only.1.norm1", "4 x 4 tokens behind 1 other"),
    "timm/coat_lite_tiny": ("serial_blocks4.1.norm1", "4 x 4 tokens behind 1 other"),
    "timm/crossvit_tiny_240": ("blocks.2.fusion.1.norm1", "20 x 20 tokens behind 1 other"),
    "timm/levit_128s": ("stages", "4 x 4 tokens"),
    "timm/pit_ti_224": ("transformers.2.blocks.3.norm1", "7 x 7 tokens behind 1 other"),
    "timm/pvt_v2_b0": ("stages", ""),
    "timm/mobilevit_xxs": ("final_conv", ""),
    "timm/xcit_nano_12_p16_224": ("cls_attn_blocks.1.norm1", "4 x 4 tokens behind 1 other"),
    "transformers/ResNet": ("resnet.encoder", ""),
    "transformers/ViT": ("vit.layers.2.layernorm_before", "4 x 4 tokens behind 1 other"),
    "transformers/Swin": ("swin.layernorm", "8 x 8 tokens"),
    "transformers/Dinov2": ("dinov2", "4 x 4 tokens behind 1 other"),
    "transformers/Dinov2WithRegisters": ("dinov2_with_registers", "4 x 4 tokens behind 5 others"),
}

# Layers that a plain hook sees as (B, C, H, W), in models that return scores: `oracle` can tell.
PLAIN = [
    name
    for name, (_, layout) in DEFAULTS.items()
    if not layout and not FAMILIES[name].explained and "transformers" not in name
]


def check(case: Case, folder: Path) -> None:
    family = FAMILIES[case.model]
    library = case.model.partition("/")[0]
    if library != case.model and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'camcore[families]'")
    model = family.build()
    example = torch.zeros(1, 3, family.size, family.size)
    explained = explain(model, example, layer=case.layer, **family.explained)
    layout = ", ".join(layout.describe() for layout in explained.found.layouts)
    if case.layer is None:
        assert (explained.card.layer, layout) == DEFAULTS[case.model]
    path = folder / f"model{case.suffix}"
    card = save(explained, path)
    if case.model in PLAIN and not layout:
        check_by_hand(path, family, model, explained.card.layer, explained.card.image.height)
    elif not family.explained:
        # What `save` has proven is enough, if no rounding had to be excused. In segmentation it
        # has to be: which class a pixel counts for is a hard choice.
        assert card.proof["worst_relative_error"] <= TOLERANCE


def check_by_hand(
    path: Path, family: Family, model: nn.Module, layer: str, height: int | None
) -> None:
    size = (family.size, family.size)
    grown = (family.size + 32, family.size + 9) if height is None else size
    image, ids = images(1, 2, *grown), torch.tensor([[-1, 7]])
    given = run_file(path, image, ids)
    assert_follows(given, model, layer, image, ids)

    other, ids = images(2, 3, *size), torch.tensor([[4], [-1], [0]])
    assert_follows(run_file(path, other, ids), model, layer, other, ids)

    # Not only near their own references: the maps follow the image.
    again = run_file(path, images(3, 2, *grown), torch.tensor(given.classes))
    assert np.abs(again.saliency_map - given.saliency_map).max() > 0.05


FAST = [Case("resnet18")]

# Deeper, wider or plainer twins of others: one layer will do.
TWINS = {
    "vgg19",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "efficientnet_v2_s",
    "deeplabv3_resnet50",
    "timm/resnet18",
    "transformers/Dinov2",
}

# Each format in its turn.
SLOW = [
    Case("resnet18", suffix=".pt"),
    Case("resnet18", "layer2"),
] + [
    Case(name, layer, FORMATS[(n + turn) % 3])
    for n, (name, family) in enumerate(FAMILIES.items())
    for turn, layer in enumerate((None, family.earlier))
    if layer is None or name not in TWINS
]


def test_every_family_has_its_defaults() -> None:
    assert set(DEFAULTS) == set(FAMILIES)


@pytest.mark.parametrize("case", FAST, ids=str)
def test_family(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_long_list(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
