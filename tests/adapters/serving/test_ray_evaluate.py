"""An evaluation by Ray beside the same in one process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.cli.calls import camcore, done

# Ray sets options of its own that it has deprecated.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),
]


def figures(folder: Path, file: Path, *options: str | Path) -> tuple[dict[str, Any], list[str]]:
    """What an evaluation finds, and the names of the images in its record."""
    found, record = folder / "figures.json", folder / "record.jsonl"
    folder.mkdir()
    done(camcore("evaluate", file, *options, "--json", found, "--predictions", record))
    lines = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    return json.loads(found.read_text()), [line["image"] for line in lines]


def check_same(one: dict[str, Any], other: dict[str, Any], part: str) -> None:
    assert one[part]
    for name, value in one[part].items():
        if isinstance(value, int | float):
            assert other[part][name] == pytest.approx(value, abs=1e-4), name


def test_the_figures_are_the_same(all_spots: Path, scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    stated = ("--images", scenes / "images", "--annotations", scenes / "instances.json")
    plain, order = figures(tmp_path / "plain", all_spots, *stated)
    by_ray, other_order = figures(tmp_path / "ray", all_spots, *stated, "--ray", "--batch", "3")
    assert order == other_order
    check_same(plain, by_ray, "localisation")
    check_same(plain, by_ray, "boxes")


def test_faithfulness_is_the_same(all_spots: Path, scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((scenes / "images").iterdir())[:2]:
        shutil.copy(path, folder)
    measured = ("--images", folder, "--faithfulness")
    plain, order = figures(tmp_path / "plain", all_spots, *measured)
    by_ray, other_order = figures(tmp_path / "ray", all_spots, *measured, "--ray")
    assert order == other_order
    check_same(plain, by_ray, "faithfulness")
