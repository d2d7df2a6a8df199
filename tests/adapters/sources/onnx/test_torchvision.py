"""Networks of torchvision by both of PyTorch's exporters, as modules and as files."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from camcore.adapters.sources import read_onnx
from camcore.export import explain, save
from tests.adapters.sources.onnx.nets import export

# Each with a layer and a size of images.
NETS = [
    ("resnet18", "layer4", 64),
    ("vgg11_bn", "features", 224),
    ("densenet121", "features", 64),
    ("mobilenet_v2", "features", 64),
    ("mobilenet_v3_small", "features", 64),
    ("efficientnet_b0", "features", 64),
    ("convnext_tiny", "features", 64),
    ("shufflenet_v2_x0_5", "conv5", 64),
    ("regnet_y_400mf", "trunk_output", 128),
    ("squeezenet1_1", "features", 96),
    ("vit_b_32", "encoder.layers.encoder_layer_11.ln_1", 224),
    ("swin_t", "features.5", 224),
]


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "older"])
@pytest.mark.parametrize(("name", "layer", "size"), NETS, ids=[name for name, _, _ in NETS])
def test_maps_are_those_of_the_original(
    name: str, layer: str, size: int, dynamo: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = models.get_model(name, weights=None, num_classes=7).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    logging.disable()
    export(net, tmp_path / "m.onnx", dynamo=dynamo, size=size, opset_version=18 if dynamo else 17)
    logging.disable(logging.NOTSET)
    model, images = read_onnx(tmp_path / "m.onnx"), torch.randn(2, 3, size, size)
    options = {"layer": layer, "dynamic_size": False}
    ours = explain(model, images, **options)
    theirs = explain(net, images, **options)
    with torch.no_grad():
        given, expected = (
            ours(images, class_ids=torch.tensor([[0, 6]])),
            theirs(images, class_ids=torch.tensor([[0, 6]])),
        )
    scale = expected.scores.abs().max()
    assert float((given.scores - expected.scores).abs().max() / scale) < 1e-4
    torch.testing.assert_close(given.saliency_map, expected.saliency_map, rtol=0, atol=1e-3)
    assert save(ours, tmp_path / "explained.onnx").proof["worst_relative_error"] < 1e-4
