from pathlib import Path

from tests.adapters.cli.calls import camcore, done, failed

MODEL = "tests.adapters.untrained:build_spots"


def test_methods_side_by_side(scenes: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    data = ["--images", scenes / "images", "--annotations", scenes / "instances.json"]
    methods = ["--method", "activation", "--method", "legrad", "--layer", "features"]
    size = ["--size", "96", "--probabilities", "sigmoid", "--limit", "2"]
    result = camcore("compare", MODEL, *data, *methods, *size, "-o", page)
    text = done(result)
    assert "activation: 1 of 2, " in result.stderr
    assert "legrad: 2 of 2, " in result.stderr
    assert "assumed" not in text  # the model states all of it
    assert "left out: legrad" in text
    assert "activation" in text
    assert f"wrote {page}" in text
    content = page.read_text()
    assert content.count("<img") == 2 + 2  # two images, one method
    assert "<td>2</td>" in content
    assert "ADCC" in content
    assert "mAP" in content
    assert "<svg" in content


def test_a_comparison_goes_on_with_the_files_that_are_there(
    spots: Path, scenes: Path, tmp_path: Path
) -> None:
    """Nothing is exported, and no image is run again."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "gradcam.onnx").write_bytes(spots.read_bytes())
    data = ["--images", scenes / "images", "--annotations", scenes / "instances.json"]
    call = ["compare", MODEL, *data, "--method", "gradcam", "--no-faithfulness", "--files", files]
    done(camcore(*call, "--limit", "3", "-o", tmp_path / "a.md"))
    record = files / "gradcam.jsonl"
    first = record.read_text()
    assert (files / "gradcam.onnx").read_bytes() == spots.read_bytes()
    done(camcore(*call, "--limit", "5", "-o", tmp_path / "b.md"))
    assert record.read_text().startswith(first)
    assert len(record.read_text().splitlines()) == len(first.splitlines()) + 2
    assert "| 5 |" in (tmp_path / "b.md").read_text()


def test_wrong_input_is_told_before_anything_is_built(scenes: Path, tmp_path: Path) -> None:
    call = ["compare", "no_such_model", "--images", scenes / "images"]
    assert "unknown method" in failed(camcore(*call, "--method", "gradcan"))
    assert "nothing to measure" in failed(camcore(*call, "--no-faithfulness"))
    assert "there is no folder" in failed(camcore(*call, "-o", tmp_path / "no" / "a.html"))
    assert "there is no folder" in failed(camcore("compare", MODEL, "--images", tmp_path / "no"))


def test_classes_and_preparation_can_be_stated(scenes: Path, tmp_path: Path) -> None:
    """Of a model that states neither; what is still assumed is told."""
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    call = ["compare", "tests.adapters.nets:build_painter", "--images", scenes / "images"]
    stated = ["--mean", "0.5", "--class-names", names, "-o", tmp_path / "report.html"]
    result = camcore(*call, *stated)
    assert result.exit_code == 2
    assert "2 class names were given for a model of" in result.stderr
    assert "assumed, as nothing says otherwise: std 0.229" in " ".join(result.stdout.split())
