"""The road of a course: a classifier is fine-tuned, explained, and its boxes are evaluated."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from camcore.adapters.demo import CLASS_NAMES
from tests.adapters.cli.calls import camcore, done, failed

MODEL = "tests.adapters.untrained:build_spots"


def arguments(scenes: Path, output: Path) -> list[str | Path]:
    data = ["--images", scenes / "images", "--annotations", scenes / "instances.json"]
    return [*data, "--output", output, "--workers", "0", "--batch", "2"]


def test_from_annotated_images_to_average_precision(scenes: Path, tmp_path: Path) -> None:
    weights, file, path = (tmp_path / name for name in ("a.safetensors", "a.onnx", "a.json"))
    call = arguments(scenes, weights)
    text = done(camcore("train", MODEL, *call, "--epochs", "2", "--held-out", "0.3"))
    assert "5 images to learn from, 2 held out, 8 classes" in text
    assert "epoch 2: loss 0." in text
    assert "assumed" not in text  # the model says how its images are prepared
    assert f"--class-names {tmp_path / 'a.txt'} --probabilities sigmoid" in text
    assert (tmp_path / "a.txt").read_text().split() == list(CLASS_NAMES)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", "a.txt"]

    sigmoid = ["--probabilities", "sigmoid", "--box-confidence", "sigmoid"]
    own = ["--weights", weights, "--class-names", tmp_path / "a.txt", "--layer", "features"]
    done(camcore("export", MODEL, *own, *sigmoid, "--boxes", "4", "--class-ids", "all", "-o", file))
    text = done(camcore("evaluate", file, *call[:4], "--json", path))
    assert "mAP" in text
    found: Any = json.loads(path.read_text())
    assert found["images"] == 7
    assert found["boxes"]["mAP"] is not None


def test_wrong_input_is_told(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = arguments(scenes, tmp_path / "a.safetensors")
    assert "ends in .safetensors" in failed(camcore("train", MODEL, *call[:4], "-o", "a.pt"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device" in failed(camcore("train", MODEL, *call, "--device", "cuda"))
    message = failed(camcore("train", MODEL, *call, "--weights", tmp_path / "a.safetensors"))
    assert "would replace" in message
    assert list(tmp_path.iterdir()) == []


def test_how_images_are_prepared_is_told_on(scenes: Path, tmp_path: Path) -> None:
    call = arguments(scenes, tmp_path / "a.safetensors")
    own = ["--size", "64", "--mean", "0.4", "--std", "0.3"]
    text = done(camcore("train", MODEL, *call, *own, "--epochs", "1"))
    assert f"{tmp_path / 'a.txt'} --size 64 --mean 0.4 --std 0.3 --probabilities" in text
    text = done(camcore("train", "tests.adapters.nets:build_painter", *call, "--epochs", "1"))
    assert "assumed, as nothing says otherwise: mean 0.485" in text
