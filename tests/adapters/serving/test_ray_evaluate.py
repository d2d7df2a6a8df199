"""An evaluation by Ray beside the same in one process."""

import json
from pathlib import Path

import pytest

from tests.adapters.cli.calls import camcore, done

# Ray sets options of its own that it has deprecated.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),
]


@pytest.mark.parametrize("faithfulness", [False, True])
def test_the_figures_are_the_same(
    all_spots: Path, scenes: Path, tmp_path: Path, faithfulness: bool
) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("pyarrow")
    stated = ("--images", scenes / "images", "--annotations", scenes / "instances.json")
    found = []
    for name, options in (("plain", ()), ("ray", ("--ray", "--batch", "3"))):
        figures, record = tmp_path / f"{name}.json", tmp_path / f"{name}.jsonl"
        where = ("--json", figures, "--predictions", record)
        more = ("--faithfulness",) if faithfulness else ()
        done(camcore("evaluate", all_spots, *stated, *where, *options, *more))
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        found.append((json.loads(figures.read_text()), [line.get("image") for line in lines]))
    (plain, order), (by_ray, other_order) = found
    assert order == other_order
    for part in ("localisation", "boxes", "faithfulness"):
        assert (plain[part] is None) == (by_ray[part] is None)
        for name, value in (plain[part] or {}).items():
            if isinstance(value, int | float):
                assert by_ray[part][name] == pytest.approx(value, abs=1e-4), name
