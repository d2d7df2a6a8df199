"""Mutated files: a clear error or an answer, never a crash, a hang, or gigabytes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from camcore.adapters import load
from camcore.errors import CamcoreError
from tests.adapters.hostile.mutations import MUTATIONS, mutated

ROOT = Path(__file__).parents[3]
SUFFIXES = [".onnx", ".pt", ".pt2"]

_MOST_GROWN, _MOST_SECONDS = 1000, 20  # megabytes; seconds


def attempts(file: Path, first: int, last: int, folder: Path) -> list[dict[str, Any]]:
    """What came of each case; behind one that ended its process, a new process goes on."""
    found: list[dict[str, Any]] = []
    while first < last:
        arguments = [str(file), str(first), str(last), str(folder)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.adapters.hostile.attempt", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines, done.stderr
        found += outcomes(lines, done.returncode)
        first = found[-1]["case"] + 1
    return found


def outcomes(lines: Sequence[dict[str, Any]], code: int) -> list[dict[str, Any]]:
    """The two lines of each case as one; where the second is missing, how the process ended."""
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        found[line["case"]] = found.get(line["case"], {}) | line
    for each in found.values():
        each.setdefault("outcome", f"CRASH, exit code {code}")
    return list(found.values())


def bad(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        each
        for each in found
        if each["outcome"].startswith(("CRASH", "RAW"))
        or each["grown"] > _MOST_GROWN
        or each["seconds"] > _MOST_SECONDS
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("first", "last"), [(0, 20), pytest.param(1000, 2000, marks=pytest.mark.slow)]
)
def test_mutated_files(
    toy_folder: Path, tmp_path: Path, suffix: str, first: int, last: int
) -> None:
    found = attempts(toy_folder / f"toy{suffix}", first, last, tmp_path)
    assert len(found) == last - first
    assert bad(found) == []
    # Not all fail at the seal, nor do all pass.
    told = [each["outcome"] for each in found]
    assert 0 < sum("its seal does not fit" in each for each in told) < len(told)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mutated_files_of_the_exporter(stepwise_folder: Path, tmp_path: Path, suffix: str) -> None:
    found = attempts(stepwise_folder / f"stepwise{suffix}", 0, 300, tmp_path)
    assert bad(found) == []


def test_what_is_bad_is_found() -> None:
    """A process that ended in the middle, an exception of Python's, a hang, and gigabytes."""
    lines = [
        {"case": 0, "outcome": "FileError: damaged", "seconds": 0.1, "grown": 1},
        {"case": 1, "outcome": "RAW builtins.KeyError: 'x'", "seconds": 0.1, "grown": 1},
        {"case": 2, "outcome": "another answer", "seconds": 0.1, "grown": 2000},
        {"case": 3, "outcome": "another answer", "seconds": 90, "grown": 1},
        {"case": 4, "name": "flipped 4"},
    ]
    found = outcomes(lines, -11)
    assert found[-1]["outcome"] == "CRASH, exit code -11"
    assert [each["case"] for each in bad(found)] == [1, 2, 3, 4]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_mutation_changes_the_file(toy_folder: Path, suffix: str) -> None:
    content = (toy_folder / f"toy{suffix}").read_bytes()
    count = len(MUTATIONS[suffix])
    for first in range(count):
        made = [mutated(content, suffix, first + turn * count) for turn in range(3)]
        assert any(changed != content for _, changed in made)  # by chance one may be as it was
        assert made[0] == mutated(content, suffix, first)


def test_an_accident_is_always_noticed(toy_folder: Path, tmp_path: Path) -> None:
    """Whatever happens to a file without a new seal, it is not run."""
    content = (toy_folder / "toy.onnx").read_bytes()
    plain = len(MUTATIONS[".onnx"])
    for seed in (each + plain * turn for turn in range(8) for each in range(3)):
        path = tmp_path / "toy.onnx"
        changed = mutated(content, ".onnx", seed)[1]
        if changed == content:
            continue
        path.write_bytes(changed)
        with pytest.raises(CamcoreError):
            load(path)
