"""Runs that go on where they were, by lines of JSON and by Parquet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camcore.adapters.running import entries as road
from tests.adapters.cli.calls import camcore, done, failed

FAILED = 3


def records(place: Path) -> list[dict[str, Any]]:
    """What a run wrote, in the order of its images."""
    if place.suffix == ".jsonl":
        found = [json.loads(line) for line in place.read_text().splitlines()]
    else:
        import pyarrow.parquet as pq

        found = pq.read_table(place).to_pylist()
    for each in found:
        each.pop("run", None)
        if each.get("error", "") is None:
            del each["error"]
    return sorted(found, key=lambda record: str(record["image"]))


@pytest.fixture(params=["json", "parquet"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    name = {"json": "out.jsonl", "parquet": "out"}[request.param]
    return f"--{request.param}", tmp_path / name


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ctrl-C comes behind so many images."""

    def after(count: int) -> None:
        plain, seen = road.image_record, []

        def record(*arguments: Any) -> Any:
            if len(seen) == count:
                raise KeyboardInterrupt
            seen.append(arguments)
            return plain(*arguments)

        monkeypatch.setattr(road, "image_record", record)

    return after


def test_an_interrupted_run_goes_on(
    toy_folder: Path,
    tree: Path,
    tmp_path: Path,
    place: tuple[str, Path],
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = ("run", toy_folder / "toy.onnx", tree / "*" / "*.png", "--batch", "1")
    whole = tmp_path / f"whole{place[1].suffix}"
    assert camcore(*call, place[0], whole).exit_code == FAILED
    expected = records(whole)
    assert len(expected) == 6
    interrupt(2)
    assert camcore(*call, *place).exit_code == 130
    assert len(records(place[1])) == 2
    monkeypatch.undo()
    result = camcore(*call, *place, "--resume")
    assert result.exit_code == FAILED
    assert "going on behind 2 images" in result.stderr
    assert records(place[1]) == expected
    # What failed is tried again, and nothing else.
    broken = tree / "b" / "4.png"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(broken)
    text = done(camcore(*call, *place, "--resume"))
    # A narrow terminal folds it.
    assert str(broken) in "".join(text.split())
    assert len(text.split("┃")) > 1  # the table of one image
    assert [each["image"] for each in records(place[1])] == [each["image"] for each in expected]
    assert not any("error" in each for each in records(place[1]))


def test_results_of_another_run_are_refused(
    toy_folder: Path, tree: Path, place: tuple[str, Path]
) -> None:
    call = ("run", toy_folder / "toy.onnx", tree / "a" / "0.png", *place)
    done(camcore(*call))
    before = records(place[1])
    assert "is of another run" in failed(camcore(*call, "--class", "dog", "--resume"))
    assert records(place[1]) == before
    if place[0] == "--parquet":
        assert "has results in it: go on with them by --resume" in failed(camcore(*call))


def test_lines_of_a_run_that_wrote_rows_as_well(
    toy_folder: Path, tree: Path, tmp_path: Path
) -> None:
    """They do not hang on what the rows keep."""
    lines, rows = tmp_path / "a.jsonl", tmp_path / "rows"
    call = ("run", toy_folder / "toy.onnx", tree / "a" / "*.png", "--json", lines)
    done(camcore(*call, "--parquet", rows, "--parquet-maps", "uint8"))
    before = lines.read_text()
    done(camcore(*call, "--resume"))
    assert lines.read_text() == before
    other = ("run", toy_folder / "toy.onnx", tree / "a" / "*.png", "--parquet", rows, "--resume")
    assert "cannot be read" not in failed(camcore(*other))


def test_an_image_given_twice_is_done_twice(
    toy_folder: Path, tree: Path, place: tuple[str, Path]
) -> None:
    image = tree / "a" / "0.png"
    call = ("run", toy_folder / "toy.onnx")
    done(camcore(*call, image, *place))
    done(camcore(*call, image, image, *place, "--resume"))
    assert [each["image"] for each in records(place[1])] == [str(image)] * 2


def test_a_last_line_that_was_cut_off_is_written_again(
    toy_folder: Path, tree: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "out.jsonl"
    call = ("run", toy_folder / "toy.onnx", tree / "a" / "*.png", "--json", lines)
    done(camcore(*call))
    whole = lines.read_text()
    lines.write_text(whole[:-20])
    done(camcore(*call, "--resume"))
    assert lines.read_text() == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume",), "--resume goes on with the results of one: --json or --parquet"),
        (("--resume", "--json", "out.json"), "--resume wants an image a line: --json out.jsonl"),
        (("--parquet-maps", "uint8"), "--parquet-maps uint8 says how --parquet keeps maps"),
    ],
)
def test_options_that_do_not_go_together(
    toy_folder: Path, tree: Path, options: tuple[str, ...], message: str
) -> None:
    call = ("run", toy_folder / "toy.onnx", tree / "a" / "0.png")
    assert message in failed(camcore(*call, *options))
