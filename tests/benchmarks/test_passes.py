"""The figures of many passes: what is measured by default, and what stays in the file."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from benchmarks import contender
from benchmarks.book import Book, read_entries, render
from benchmarks.passes import ABOUT, CASES, LONG, _is_asked_for
from benchmarks.report import Row
from benchmarks.table import read


def row(ratio: float, channels: int | None = None) -> Row:
    facts = {"method": "ablationcam", "channels": channels}
    return ABOUT.row(
        "beside the floor",
        model="resnet18",
        layer="layer3",
        ratio=(ratio, ratio, ratio),
        baseline_ms=10.0,
        contender_ms=10.0 * ratio,
        pairs=1,
        facts=facts,
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
    path = tmp_path / "passes.tsv"
    first = Book(path, "PASSES.md", {"cores": 1, "load_before": 0.5}, ABOUT)
    first.enter([row(1.5), row(2.5, channels=16)])
    before = path.read_text().splitlines()
    Book(path, "PASSES.md", {"cores": 2}, ABOUT).enter([row(0.5)])
    entries = read_entries(path, ABOUT)
    found = [(entry.row.ratio, dict(entry.machine)) for entry in entries]
    assert found == [((0.5,) * 3, {"cores": "2"}), ((2.5,) * 3, {"cores": "1"})]
    # The line of what was not measured again is the same.
    assert path.read_text().splitlines()[-1] == before[-1]
    page = path.with_name("PASSES.md").read_text()
    assert page == render(entries, ABOUT)
    assert "0.500x" in page
    assert "1.500x" not in page
    assert "cores 1." in page
    assert "cores 2." in page


def test_what_was_refused_gives_way(tmp_path: Path) -> None:
    """A refusal may come before the layer is known, and the row has none."""
    path = tmp_path / "passes.tsv"
    refused = replace(row(1.0), layer="", ratio=None, refused="empty")
    for entered in ([refused, row(2.5, channels=16)], [row(1.5)], [refused]):
        Book(path, "PASSES.md", {"cores": 1}, ABOUT).enter(entered)
        layers = [entry.row.layer for entry in read_entries(path, ABOUT)]
        assert sorted(layers) == sorted([entered[0].layer, "layer3"])


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "passes.tsv"
    floor = {"method": "ablationcam", "passes": 257, "tail_share": 0.25, "floor_batch": 8}
    rows = [
        replace(row(1.234), limit=1.1, facts=floor),
        ABOUT.row(
            "beside others",
            model="resnet18",
            layer="layer4",
            limit=2.5,
            limit_kind="at least",
            refused="the maps differ by 2.4e-01",
            facts={"method": "scorecam", "options": "align_corners", "map_difference": 0.24},
        ),
        ABOUT.row(
            "similarity", model="a model", layer="default", facts={"channels": 4, "mean_SSIM": 0.99}
        ),
    ]
    Book(path, "PASSES.md", {}, ABOUT).enter(rows)
    found = {entry.row.section: asdict(entry.row) for entry in read_entries(path, ABOUT)}
    assert found == {each.section: asdict(each) for each in rows}
    assert "| 0.990 |" in path.with_name("PASSES.md").read_text()


def test_machines_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "passes.tsv"
    for cores, channels in ((1, 8), (2, 16), (3, 32)):
        Book(path, "PASSES.md", {"cores": cores}, ABOUT).enter([row(1.5, channels)])
    # Nothing of the first is left; the others are called what they were.
    Book(path, "PASSES.md", {"cores": 2}, ABOUT).enter([row(1.5, 8)])
    assert read(path).notes == {"2": {"cores": "2"}, "3": {"cores": "3"}}
    assert [record["measured"] for record in read(path).records] == ["2", "2", "3"]
