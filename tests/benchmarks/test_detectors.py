"""What is timed finds the same, and is told."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from benchmarks.book import Book, read_entries
from benchmarks.detectors import ABOUT, CASES, MAPS, check, main
from benchmarks.report import Row, timed
from benchmarks.timing import compare


def row(side: int, maps: int, ratio: float) -> Row:
    times = timed(compare([1.0], [ratio]))
    facts = {"method": "hirescam", "side": side, "maps": maps}
    return ABOUT.row(MAPS, model="retinanet", layer="backbone", **times, facts=facts)


def test_only_what_finds_the_same_is_timed() -> None:
    boxes, labels, scores = np.zeros((2, 4)), np.zeros(2), np.array([0.9, 0.8])
    plain: Any = (boxes, labels, scores)
    check(plain, (*plain, np.zeros((2, 8, 8))), 2)
    with pytest.raises(ValueError, match="1 maps, expected 2"):
        check(plain, (*plain, np.zeros((1, 8, 8))), 2)
    with pytest.raises(AssertionError):
        check(plain, (boxes, labels, scores + 0.01, np.zeros((2, 8, 8))), 2)


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.maps for case in CASES} == {1, 20, 100}


def test_sides_and_numbers_of_maps_are_rows_of_their_own(tmp_path: Path) -> None:
    """What was measured before stays, of the same detector, layer and method."""
    path = tmp_path / "detectors.tsv"
    for rows in ([row(320, 20, 1.5), row(800, 20, 1.25)], [row(800, 100, 2.5)], [row(320, 20, 3)]):
        Book(path, "DETECTORS.md", {"cores": 2}, ABOUT).enter(rows)
    found = [entry.row for entry in read_entries(path, ABOUT)]
    told = [
        (each.facts["side"], each.facts["maps"], each.ratio and each.ratio[1]) for each in found
    ]
    assert told == [(320, 20, 3.0), (800, 20, 1.25), (800, 100, 2.5)]
    page = path.with_name("DETECTORS.md").read_text()
    assert "| retinanet | backbone | 2.500x | 1000.0 | 2500.0 | 1 | hirescam | 800 | 100 |" in page
    assert "Machine: cores 2." in page


def test_what_is_not_installed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics.nn.tasks", None)
    main(["--only", "yolov8n", "--output", str(tmp_path / "detectors.tsv")])
    assert "yolov8n.yaml/default/hirescam/640/20 is left out: " in capsys.readouterr().out
    assert not (tmp_path / "detectors.tsv").exists()
