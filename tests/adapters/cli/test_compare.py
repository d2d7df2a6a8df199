from pathlib import Path

from tests.adapters.cli.calls import camcore, done, failed

MODEL = "tests.adapters.untrained:build_spots"


def test_methods_side_by_side(scenes: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    data = ["--images", scenes / "images", "--annotations", scenes / "instances.json"]
    methods = ["--method", "activation", "--method", "legrad", "--layer", "features"]
    size = ["--size", "96", "--probabilities", "sigmoid", "--limit", "2"]
    text = done(camcore("compare", MODEL, *data, *methods, *size, "-o", page))
    assert "left out: legrad" in text
    assert "activation" in text
    assert f"wrote {page}" in text
    content = page.read_text()
    assert content.count("<img") == 2 + 2  # two images, one method
    assert "<td>2</td>" in content
    assert "ADCC" in content
    assert "mAP" in content


def test_wrong_input_is_told_before_anything_is_built(scenes: Path, tmp_path: Path) -> None:
    call = ["compare", "no_such_model", "--images", scenes / "images"]
    assert "unknown method" in failed(camcore(*call, "--method", "gradcan"))
    assert "nothing to measure" in failed(camcore(*call, "--no-faithfulness"))
    assert "there is no folder" in failed(camcore(*call, "-o", tmp_path / "no" / "a.html"))
    assert "there is no folder" in failed(camcore("compare", MODEL, "--images", tmp_path / "no"))
