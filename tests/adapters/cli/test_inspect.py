from pathlib import Path

import pytest

from tests.adapters.cli.calls import camcore, done, failed


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_inspect(toy_folder: Path, suffix: str) -> None:
    text = done(camcore("inspect", toy_folder / f"toy{suffix}"))
    for shown in ("gradcam", "features", "4: cat, dog, boxer", "worst 1e-06", "middle 32 x 32"):
        assert shown in text
    assert ("class_ids (optional)" in text) == (suffix == ".onnx")
    assert ("B x K x H x W" in text) == (suffix == ".onnx")


def test_inspect_of_a_file_that_prepares_the_image_itself(uint8_folder: Path) -> None:
    text = done(camcore("inspect", uint8_folder / "toy.onnx"))
    assert "uint8 RGB, any x any (height x width), channels last" in text
    assert "(0.229, 0.224, 0.225), in the graph" in text
    assert "image │ uint8 │ B x H x W x 3" in text


def test_inspect_tells_steps(stepwise_folder: Path) -> None:
    text = done(camcore("inspect", stepwise_folder / "stepwise.onnx"))
    assert "at image size, in 4 steps" in text
    assert "image, class_ids, steps, state" in text
    assert "11 x batch x k" in text


def test_inspect_of_a_damaged_file(toy_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes((toy_folder / "toy.onnx").read_bytes()[:-100])
    assert "cut.onnx" in failed(camcore("inspect", path))
