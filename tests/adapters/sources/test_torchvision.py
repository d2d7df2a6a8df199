from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from camcore.adapters.sources.build import build_model
from camcore.card import ImageSpec
from camcore.errors import CamcoreError, UnknownNameError


def test_builder_without_weights() -> None:
    built = build_model("resnet18", "none")
    assert isinstance(built.model, models.ResNet)
    assert not built.model.training
    assert built.name == "resnet18"
    assert built.class_names is None  # it knows none
    assert built.image == ImageSpec(None, None, resize=256, crop=(224, 224))


def test_preprocessing_is_the_weights_own() -> None:
    built = build_model("efficientnet_b1", "none")
    default = models.EfficientNet_B1_Weights.DEFAULT.transforms()
    assert built.image.crop == (default.crop_size[0],) * 2
    assert built.image.resize == default.resize_size[0]
    assert build_model("mobilenet_v3_small", "NONE").image.interpolation == "bilinear"


def test_safetensors_with_another_number_of_classes(resnet: tuple[nn.Module, Path]) -> None:
    model, path = resnet
    built = build_model("resnet18", str(path))
    assert built.class_names is None
    assert built.image.crop == (224, 224)
    assert "mean" in built.image.assumed  # as the default weights have it
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(built.model(image), model(image), rtol=0, atol=0)


def test_class_names_where_the_number_agrees(tmp_path: Path) -> None:
    path = tmp_path / "full.pt"
    torch.save(models.squeezenet1_1().state_dict(), path)
    built = build_model("squeezenet1_1", str(path))
    assert built.class_names is not None
    assert len(built.class_names) == 1000


def test_googlenet_as_torchvision_loads_it(tmp_path: Path) -> None:
    """Without the training heads, and with the input transform of its published weights."""
    model = models.googlenet(num_classes=3, init_weights=False, aux_logits=False)
    path = tmp_path / "googlenet.safetensors"
    save_file(model.state_dict(), path)
    built = build_model("googlenet", str(path))
    assert isinstance(built.model, models.GoogLeNet)
    assert built.model.transform_input
    assert built.model.fc.out_features == 3


def test_unknown_weights() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown weights of resnet50 'IMAGENET1K_V3'.*V2"):
        build_model("resnet50", "IMAGENET1K_V3")


def test_named_weights_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get_model(name: str, weights: object) -> nn.Module:
        asked.append((name, weights))
        return nn.Linear(1, 1)

    monkeypatch.setattr(models, "get_model", get_model)
    build_model("resnet50")
    built = build_model("resnet50", "imagenet1k_v1")
    weights = models.ResNet50_Weights
    assert asked == [("resnet50", weights.IMAGENET1K_V2), ("resnet50", weights.IMAGENET1K_V1)]
    assert built.image.resize == 256
    assert built.class_names == tuple(weights.IMAGENET1K_V1.meta["categories"])
    assert built.class_names[242] == "boxer"
    assert built.image.assumed == ()


def test_failed_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model(name: str, weights: object) -> nn.Module:
        raise URLError("no network")

    monkeypatch.setattr(models, "get_model", get_model)
    message = r"resnet18.*\.pth could not be downloaded.*--weights FILE"
    with pytest.raises(CamcoreError, match=message):
        build_model("resnet18")


def test_segmentation_model_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"download of {arguments}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    built = build_model("lraspp_mobilenet_v3_large", "none")
    assert (built.image.resize, built.image.crop) == (520, None)


def test_segmentation_model_from_a_file(tmp_path: Path) -> None:
    """Of five classes, and with the auxiliary head that it was trained with."""
    trained = models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5, aux_loss=True
    )
    path = tmp_path / "trained.safetensors"
    save_file(trained.state_dict(), path)
    built = build_model("deeplabv3_mobilenet_v3_large", str(path))
    assert built.class_names is None
    with torch.no_grad():
        given = built.model(torch.ones(1, 3, 32, 32))
        expected = trained.eval()(torch.ones(1, 3, 32, 32))
    assert list(given) == ["out", "aux"]
    for name in given:
        torch.testing.assert_close(given[name], expected[name])
