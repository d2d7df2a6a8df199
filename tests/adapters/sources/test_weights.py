import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from camcore.adapters.sources.build import build_model
from camcore.adapters.sources.weights import fitting, load_state_dict, read_state_dict
from camcore.errors import FileError, InputError


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "net", "state", "ema"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "net.", "backbone.", "_orig_mod.", "module._orig_mod.net."]
)
def test_checkpoints_as_training_scripts_write_them(
    tmp_path: Path, wrap: str | None, prefix: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = {prefix + name: value for name, value in model.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save(state if wrap is None else {"epoch": 3, wrap: state}, path)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    load_state_dict(other, read_state_dict(path), str(path))
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_prefixes_of_the_model_itself_stay() -> None:
    """A model that has a part called model, and a state with a name beside the prefix."""
    own = nn.ModuleDict({"model": nn.Linear(2, 2), "head": nn.Linear(2, 2)}).state_dict()
    assert fitting(own, own) == own
    wrapped = {f"module.{name}": value for name, value in own.items()}
    assert fitting(wrapped, own).keys() == own.keys()
    mixed = {"model.weight": torch.zeros(1), "loss.weight": torch.zeros(1)}
    assert fitting(mixed, ["weight"]) == mixed
    with pytest.raises(InputError, match=r"missing: bias, weight; unexpected: loss.weight, model"):
        load_state_dict(nn.Linear(1, 1), mixed, "mixed.pt")


def test_wrapped_weights_of_torchvisions_builders(
    resnet: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    """Of another number of classes, which is read off the names behind the prefix."""
    state = {f"model.backbone.{name}": value for name, value in resnet[0].state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "lightning.ckpt")
    built = build_model("resnet18", str(tmp_path / "lightning.ckpt"))
    expected = resnet[0].state_dict()
    torch.testing.assert_close(built.model.state_dict(), expected, rtol=0, atol=0)


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


@pytest.mark.parametrize("average", ["ema", "state_dict_ema", "model_ema"])
def test_of_two_sets_of_weights_the_user_chooses(tmp_path: Path, average: str) -> None:
    first, second = (nn.Conv2d(3, 4, 3).state_dict() for _ in range(2))
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": first, average: {"state_dict": second}}, path)
    with pytest.raises(InputError, match=rf"several sets of weights: state_dict, {average}\. Say"):
        read_state_dict(path)
    for key, expected in (("state_dict", first), (average, second)):
        torch.testing.assert_close(read_state_dict(f"{path}:{key}"), expected)
    with pytest.raises(FileError, match=r"nothing under 'mean': it holds a dict of 'epoch'"):
        read_state_dict(f"{path}:mean")


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


def test_what_a_checkpoint_holds_instead_is_told(tmp_path: Path) -> None:
    torch.save({"weights": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "other.pt")
    message = r"holds a dict of 'weights' \(dict\), 'epoch' \(int\); .* model, net, .* or ema"
    with pytest.raises(FileError, match=message):
        read_state_dict(tmp_path / "other.pt")


def test_missing_weights_file() -> None:
    with pytest.raises(FileError, match=r"none\.pth does not exist"):
        build_model("resnet18", "none.pth")
