import os
import pickle
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from camcore.adapters.zoo import build_model, read_state_dict, with_size
from camcore.card import ImageSpec
from camcore.errors import CamcoreError, FileError, InputError, UnknownNameError

MODULE = """
import torch
from torch import nn

def build_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))

def broken():
    raise ValueError("no luck")

def number():
    return 5

not_a_function = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the working folder."""
    (tmp_path / "users_models.py").write_text(MODULE)
    (tmp_path / "needs_more.py").write_text("import a_package_that_nobody_has")
    (tmp_path / "syntax.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "users_models", raising=False)
    return "users_models"


@pytest.fixture
def resnet(tmp_path: Path) -> tuple[nn.Module, Path]:
    """A fine-tuned ResNet-18 of five classes in a safetensors file."""
    torch.manual_seed(0)
    model = models.resnet18(num_classes=5)
    path = tmp_path / "resnet.safetensors"
    save_file(model.state_dict(), path)
    return model.eval(), path


def test_builder_without_weights() -> None:
    built = build_model("resnet18", "none")
    assert isinstance(built.model, models.ResNet)
    assert not built.model.training
    assert built.name == "resnet18"
    assert built.class_names is not None
    assert built.class_names[242] == "boxer"
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
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(built.model(image), model(image), rtol=0, atol=0)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_as_training_scripts_write_them(
    resnet: tuple[nn.Module, Path], tmp_path: Path, wrap: str | None, prefix: str
) -> None:
    state = {prefix + name: value for name, value in resnet[0].state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, path)
    read = read_state_dict(path)
    assert read.keys() == resnet[0].state_dict().keys()


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


def test_unknown_builder() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'resnet19'; nearest: .*resnet18"):
        build_model("resnet19")
    with pytest.raises(UnknownNameError, match="module:function"):
        build_model("r3d_18")  # video


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


def test_failed_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model(name: str, weights: object) -> nn.Module:
        raise URLError("no network")

    monkeypatch.setattr(models, "get_model", get_model)
    message = r"resnet18.*\.pth could not be downloaded.*--weights FILE"
    with pytest.raises(CamcoreError, match=message):
        build_model("resnet18")


def test_weights_of_another_model(resnet: tuple[nn.Module, Path]) -> None:
    message = (
        r"does not fit SqueezeNet: missing: classifier\.1\.bias.* and \d+ more; unexpected: bn1"
    )
    with pytest.raises(InputError, match=message):
        build_model("squeezenet1_1", str(resnet[1]))


def test_weights_of_another_shape(resnet: tuple[nn.Module, Path], tmp_path: Path) -> None:
    state = resnet[0].state_dict()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    path = tmp_path / "shape.safetensors"
    save_file(state, path)
    with pytest.raises(
        InputError, match=r"shape: conv1.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)"
    ):
        build_model("resnet18", str(path))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("layer2.0.conv1.weight", float("nan"), "parameter"),
        ("bn1.running_var", float("inf"), "buffer"),
    ],
)
def test_weights_that_are_not_finite(
    resnet: tuple[nn.Module, Path], tmp_path: Path, name: str, value: float, kind: str
) -> None:
    state = resnet[0].state_dict()
    state[name] = torch.full_like(state[name], value)
    path = tmp_path / "broken.safetensors"
    save_file(state, path)
    with pytest.raises(InputError, match=f"{kind} {name} of resnet18 holds NaN or infinity"):
        build_model("resnet18", str(path))


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_pickle_bomb_does_not_go_off(tmp_path: Path, plain_pickle: bool) -> None:
    path, target = tmp_path / "bomb.pt", tmp_path / "went-off"
    if plain_pickle:
        path.write_bytes(pickle.dumps({"weight": _Bomb(target)}, protocol=2))
    else:
        torch.save({"weight": _Bomb(target)}, path)
    with pytest.raises(FileError, match=r"does not unpickle.*torch\.save\(model\.state_dict\(\)"):
        build_model("resnet18", str(path))
    assert not target.exists()
    torch.load(path, weights_only=False) if not plain_pickle else pickle.loads(path.read_bytes())
    assert target.exists()  # it is a bomb


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(FileError, match="does not unpickle"):
        build_model("resnet18", str(tmp_path / "whole.pt"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00"])
def test_damaged_weights(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileError, match="damaged"):
        build_model("resnet18", str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_weights(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    state = {"weight": torch.zeros(1000)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FileError, match="cut"):
        read_state_dict(path)


@pytest.mark.parametrize("stored", [[torch.zeros(2)], {}, {"epoch": 3}, torch.zeros(2)])
def test_files_without_a_state_dict(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / "other.pt")
    with pytest.raises(FileError, match="expected a state dict"):
        read_state_dict(tmp_path / "other.pt")


def test_missing_weights_file() -> None:
    with pytest.raises(FileError, match=r"none\.pth does not exist"):
        build_model("resnet18", "none.pth")


def test_module_function(module: str) -> None:
    built = build_model(f"{module}:build_net")
    assert built.name == "build_net"
    assert built.class_names is None
    assert not built.model.training
    assert str(Path.cwd()) not in sys.path


def test_module_function_with_a_file(module: str, tmp_path: Path) -> None:
    first = build_model(f"{module}:build_net").model
    save_file(first.state_dict(), tmp_path / "mine.safetensors")
    second = build_model(f"{module}:build_net", str(tmp_path / "mine.safetensors")).model
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("nowhere_at_all:f", "NONE", UnknownNameError, "no module 'nowhere_at_all'"),
        ("users_models:build_nets", "NONE", UnknownNameError, "nearest: build_net"),
        ("users_models:not_a_function", "NONE", UnknownNameError, "unknown function"),
        ("users_models:broken", "NONE", InputError, r"broken\(\) failed: ValueError: no luck"),
        ("users_models:number", "NONE", InputError, "returned int; expected a torch.nn.Module"),
        ("users_models:build_net", "V7", InputError, "weights 'V7' are no file"),
        ("needs_more:f", "NONE", InputError, "importing needs_more failed: .*nobody_has"),
        ("syntax:f", "NONE", InputError, "importing syntax failed"),
    ],
)
def test_module_function_errors(
    module: str, name: str, weights: str, error: type[CamcoreError], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_model(name, weights)


def test_scenes() -> None:
    built = build_model("scenes")
    assert built.class_names is not None
    with torch.no_grad():
        assert built.model(torch.zeros(1, 3, 128, 128)).shape == (1, len(built.class_names))
    assert built.image.mean == (0.5, 0.5, 0.5)
    assert built.image.resize == 128
    with pytest.raises(InputError, match="its own weights"):
        build_model("scenes", "NONE")


def test_with_size() -> None:
    spec = ImageSpec(None, None, resize=256, crop=(224, 224))
    assert with_size(spec, (224, 224)) == spec
    assert with_size(spec, (448, 448)) == ImageSpec(None, None, resize=512, crop=(448, 448))
    assert with_size(spec, (96, 128)) == ImageSpec(None, None)
    assert with_size(ImageSpec(None, None), (64, 64)) == ImageSpec(None, None)


def test_segmentation_model_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"download of {arguments}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    built = build_model("lraspp_mobilenet_v3_large", "none")
    assert built.class_names is not None
    assert built.class_names[:2] == ("__background__", "aeroplane")
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
