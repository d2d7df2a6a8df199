"""`camcore convert`."""

from pathlib import Path

import pytest

from camcore.adapters import read_card
from tests.adapters.cli.calls import camcore, done, failed


def test_half(spots: Path, scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "half.onnx"
    images = ("--images", scenes / "images")
    told = done(camcore("convert", spots, "--half", *images, "-o", output))
    assert f"wrote {output}" in told
    assert "best class kept" in told
    assert "converted half" in told
    assert read_card(output).proof["images"] == 3
    assert "map correlation" in done(camcore("inspect", output))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of --half and --int8 is needed"),
        (["--half", "--int8"], "one of --half and --int8 is needed"),
        (["--int8"], "int8 needs images to measure ranges on"),
        (["--half", "--images", "none.jpg"], "none.jpg does not exist"),
        (["--half", "--least", "1"], "the maps are too far from the original's"),
    ],
)
def test_what_is_refused(spots: Path, tmp_path: Path, options: list[str], message: str) -> None:
    output = tmp_path / "out.onnx"
    result = camcore("convert", spots, *options, "-o", output)
    assert message in failed(result, 1 if "--least" in options else 2)
    assert not output.exists()


def test_it_does_not_replace_what_it_reads(spots: Path) -> None:
    told = failed(camcore("convert", spots, "--half", "-o", spots))
    assert "would replace" in told
