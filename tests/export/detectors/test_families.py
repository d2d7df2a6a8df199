"""Ultralytics' and transformers' detectors of random weights, in files; wherever they are there."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from camcore.export import READINGS, explain, save
from tests.export.detectors.nets import image

pytestmark = pytest.mark.slow

SIZE = (128, 160)


def yolo(name: str) -> nn.Module:
    """Built from its yaml, with batch norms that know noise and class scores that differ."""
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    torch.manual_seed(0)
    model: Any = tasks.DetectionModel(name, verbose=False)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all it sees
        norm.reset_running_stats()
    with torch.no_grad():
        model(F.interpolate(torch.rand(4, 3, 9, 9), SIZE, mode="bicubic").clamp(0, 1))
    for head in model.model[-1].cv3:
        head[-1].weight.data *= 0.5
        head[-1].bias.data.fill_(-2)
    return model.eval()  # type: ignore[no-any-return]


def detr() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        backbone=None,
        use_pretrained_backbone=False,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=12,
        num_labels=5,
    )
    model: Any = transformers.DetrForObjectDetection(config).eval()
    nn.init.normal_(model.model.query_position_embeddings.weight, std=3.0)
    for parameter in model.model.decoder.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, gain=2)
    nn.init.xavier_uniform_(model.class_labels_classifier.weight, gain=6)
    return model  # type: ignore[no-any-return]


def rt_detr() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[24, 32, 48],
        encoder_hidden_dim=32,
        d_model=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_in_channels=[32, 32, 32],
        decoder_layers=2,
        num_queries=12,
        num_labels=5,
        num_denoising=0,
        anchor_image_size=None,
    )
    model: Any = _spread(transformers.RTDetrForObjectDetection(config).eval())
    # The places that it looks at are to differ, or it chooses among equals.
    for parameter in model.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)
    for head in (model.model.enc_score_head, *model.model.decoder.class_embed):
        nn.init.constant_(head.bias, -4)
    return model  # type: ignore[no-any-return]


def yolos() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=list(SIZE),
        patch_size=16,
        num_detection_tokens=12,
        num_labels=5,
        use_mid_position_embeddings=False,
    )
    return _spread(transformers.YolosForObjectDetection(config).eval())


def _spread(model: Any) -> nn.Module:
    """With weights whose queries differ, so that what they find does."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "backbone" not in name:
            nn.init.xavier_uniform_(parameter, gain=2)
        if "detection_tokens" in name or "position_embeddings" in name:
            nn.init.normal_(parameter, std=1.0)
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml"])
@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_ultralytics(name: str, suffix: str, tmp_path: Path) -> None:
    explained = explain(yolo(name), image(5, SIZE), detections="yolo", method="hirescam", top=5)
    assert len(explained.found.layers) == 3
    assert save(explained, tmp_path / f"yolo{suffix}").proof["detections"] >= 5


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_detr(suffix: str, tmp_path: Path) -> None:
    reading = partial(READINGS["detr"], score=0.3)
    explained = explain(detr(), image(5, SIZE), detections=reading, top=3)
    assert explained.found.layers == ("model.input_projection",)
    assert save(explained, tmp_path / f"detr{suffix}").proof["detections"] >= 6


@pytest.mark.parametrize(
    ("make", "reading", "target"),
    [(rt_detr, "rt-detr", "logit"), (rt_detr, "rt-detr", "left"), (yolos, "detr", "logit")],
)
def test_transformers_that_look_at_everything(
    make: Any, reading: str, target: str, tmp_path: Path
) -> None:
    detections = partial(READINGS[reading], score=0.3)
    explained = explain(make(), image(5, SIZE), detections=detections, top=3, target=target)
    assert save(explained, tmp_path / "found.onnx").proof["detections"] >= 4


def test_the_box_of_a_yolo(tmp_path: Path) -> None:
    """Its edges are the means of distributions."""
    how: dict[str, Any] = {"detections": "yolo", "method": "hirescam", "top": 5}
    explained = explain(yolo("yolov8n.yaml"), image(5, SIZE), target="left", **how)
    assert save(explained, tmp_path / "left.onnx").proof["detections"] >= 5
