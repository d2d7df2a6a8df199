from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camcore.adapters.images import prepare
from camcore.adapters.sources.build import build_model
from camcore.errors import CamcoreError, InputError, UnknownNameError
from tests.adapters.sources.pictures import picture

timm = pytest.importorskip("timm")

NAME = "timm:mobilenetv3_small_050.lamb_in1k"


def test_a_model_without_weights() -> None:
    built = build_model(NAME, "none")
    assert built.name == "mobilenetv3_small_050.lamb_in1k"
    assert built.class_names is None  # it knows none
    assert not built.model.training
    assert built.image.assumed == ()


@pytest.mark.parametrize("name", [NAME, "timm:mobileone_s0.apple_in1k", "timm:mobilenetv1_100"])
def test_images_are_prepared_as_timm_does(name: str) -> None:
    """The input is what timm's own transform makes of the same picture."""
    built = build_model(name, "none")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(built.model))
    given, _ = prepare(picture(), built.image)
    expected = transform(Image.fromarray(picture()))
    np.testing.assert_allclose(given[0], expected, atol=1e-5)


def test_a_file_of_another_number_of_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = timm.create_model("mobilenetv3_small_050", num_classes=5).eval()
    path = tmp_path / "trained.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, path)
    built = build_model(NAME, str(path))
    assert built.class_names is None
    assert "mean" in built.image.assumed  # as the named weights have it
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(built.model(images), trained(images), rtol=0, atol=0)


def test_names_of_the_classes_come_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def create_model(name: str, pretrained: bool) -> Any:
        asked.append((name, pretrained))
        return create(name)

    monkeypatch.setattr(timm, "create_model", create_model)
    built = build_model(NAME)
    assert asked == [("mobilenetv3_small_050.lamb_in1k", True)]
    assert built.class_names is not None
    assert len(built.class_names) == 1000
    assert built.class_names[242].startswith("boxer")


def test_wrong_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match=r"model of timm 'resnet1'; nearest: .*resnet18"):
        build_model("timm:resnet1")
    with pytest.raises(UnknownNameError, match=r"weights of resnet18 'a1'; nearest: a1_in1k"):
        build_model("timm:resnet18.a1")
    with pytest.raises(InputError, match=r"behind a dot, mobilenetv3_small_050 as lamb_in1k"):
        build_model(NAME, "IMAGENET1K_V1")


def test_a_failed_download_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool) -> Any:
        raise OSError("no network\nand much more of it")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(CamcoreError, match=r"could not be had \(no network\); .*--weights FILE"):
        build_model(NAME)
