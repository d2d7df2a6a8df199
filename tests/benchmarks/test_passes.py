"""The figures of many passes: what is measured by default, and what stays in the file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from benchmarks import contender
from benchmarks.book import Book, render
from benchmarks.passes import ABOUT, CASES, LONG, _is_asked_for
from benchmarks.report import Row


def row(ratio: float, channels: int | None = None) -> Row:
    return Row(
        section="beside the floor",
        model="resnet18",
        layer="layer3",
        size="fixed",
        device="cpu",
        baseline="floor",
        contender="explained",
        ratio=(ratio, ratio, ratio),
        facts={"method": "ablationcam", "channels": channels},
    )


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(names) > LONG


def test_what_is_measured() -> None:
    default = [case.name for case in CASES if _is_asked_for(case, [])]
    assert "scorecam/resnet18/layer4" in default
    assert "scorecam/resnet50/layer4/align_corners" not in default
    chosen = [case.name for case in CASES if _is_asked_for(case, ["*/vgg16/*", "rise/*"])]
    assert chosen
    assert all("/vgg16/" in name for name in chosen)


@pytest.mark.parametrize(("long", "calls"), [(20.0, 4), (0.0, 1)])
def test_a_long_run_is_its_own_measure(
    long: float,
    calls: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three runs behind one that does not count, unless that one was long."""
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 4, 4)))
    task = json.dumps({"image": str(tmp_path / "image.npy"), "runs": 3})
    made: list[int] = []
    monkeypatch.setattr(contender, "LONG_RUN", long)
    monkeypatch.setitem(contender.CONTENDERS, "peer", lambda task, image: lambda: made.append(1))
    monkeypatch.setattr("sys.argv", ["contender", "peer", task])
    contender.main()
    assert len(made) == calls
    assert len(json.loads(capsys.readouterr().out)["seconds"]) == max(1, calls - 1)


def test_what_was_measured_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "passes.json"
    first = Book(path, "PASSES.md", {"cores": 1}, ABOUT)
    first.enter([row(1.5), row(2.5, channels=16)])
    Book(path, "PASSES.md", {"cores": 2}, ABOUT).enter([row(0.5)])
    rows = json.loads(path.read_text())["rows"]
    assert [(each["ratio"][1], each["measured"]["cores"]) for each in rows] == [(0.5, 2), (2.5, 1)]
    table = path.with_name("PASSES.md").read_text()
    assert table == render(json.loads(path.read_text()), ABOUT)
    assert "0.500x" in table
    assert "1.500x" not in table
    assert "cores 1." in table
    assert "cores 2." in table


def test_what_was_refused_gives_way(tmp_path: Path) -> None:
    """A refusal may come before the layer is known, and the row has none."""
    path = tmp_path / "passes.json"
    refused = replace(row(1.0), layer="", ratio=None, refused="empty")
    for entered in ([refused, row(2.5, channels=16)], [row(1.5)], [refused]):
        Book(path, "PASSES.md", {"cores": 1}, ABOUT).enter(entered)
        rows = json.loads(path.read_text())["rows"]
        assert sorted(each["layer"] for each in rows) == sorted([entered[0].layer, "layer3"])
