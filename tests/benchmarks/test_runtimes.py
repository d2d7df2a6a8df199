from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.runtimes import PAGE, difference, page, reason, told

EXPECTED = {"scores": np.array([[1.0, 200.0]]), "boxes": np.zeros((0, 4))}


def cell(found: dict[str, Any]) -> str:
    return told(lambda path, feeds: found, Path("file.onnx"), {}, EXPECTED)


def test_agreement_is_told_by_the_largest_difference() -> None:
    assert cell(EXPECTED) == "yes, 0e+00"
    near = {**EXPECTED, "scores": np.array([[1.0, 200.01]])}
    assert cell(near) == "yes, 5e-05"
    far = {**EXPECTED, "scores": np.array([[1.5, 200.0]])}
    assert cell(far) == "no, 5e-01"
    other = {**EXPECTED, "boxes": np.zeros((1, 4))}
    assert cell(other) == "no: boxes is (1, 4), not (0, 4)"


def test_a_failure_is_told_by_its_reason() -> None:
    def run(path: Path, feeds: object) -> Any:
        raise RuntimeError("at core.cpp:84:\nUnsupported input type dynamic\nSummary:\n")

    assert told(run, Path("file.onnx"), {}, EXPECTED) == "no: Unsupported input type dynamic"


def test_reasons_fit_a_table() -> None:
    assert reason("Error: a | b") == "a / b"
    assert reason("Node. Status Message: sizes mismatch\n at x.js:3") == "sizes mismatch"
    assert len(reason("x" * 500)) == 100


def test_differences_of_large_values_are_in_proportion() -> None:
    assert difference(np.array([0.5]), np.array([0.0])) == 0.5
    assert difference(np.array([110.0]), np.array([100.0])) == pytest.approx(0.1)


def test_the_page_is_one_that_this_writes() -> None:
    text = PAGE.read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    version = text.partition("onnxruntime ")[2].partition(" ")[0]
    written = page(heads[1:], rows)
    assert version in text
    assert (
        written.partition("Each cell")[2].partition("onnxruntime ")[2].partition(" ")[2]
        == (text.partition("Each cell")[2].partition("onnxruntime ")[2].partition(" ")[2])
    )
