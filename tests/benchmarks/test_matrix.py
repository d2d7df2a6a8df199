"""The support matrix: what a cell says, what is run again, and what the table shows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import matrix, sample, traces
from benchmarks.cells import FORMATS, LAYERS, OPTIONS, Cell, Place, enter, read_cells, write_cells
from benchmarks.families import FAMILIES, NUM_CLASSES, Family
from benchmarks.matrix import ROOT, SAMPLE_MINUTES, collect, fill, main
from benchmarks.sample import choose, estimate
from benchmarks.support import render
from camcore.export.families import family_of
from camcore.export.trace.trace import Trace, trace
from camcore.methods import METHODS

MODEL = "squeezenet1_1"  # a name of the list; what it builds is replaced


class Tiny(nn.Module):
    """Two layers, the first of which is followed by an operator without a gradient rule."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.top = nn.Conv2d(4, 6, 3)
        self.hidden = nn.Linear(6, 6)
        self.fc = nn.Linear(6, NUM_CLASSES)
        nn.init.zeros_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        grid = F.affine_grid(
            torch.eye(2, 3).expand(x.shape[0], 2, 3), list(x.shape), align_corners=False
        )
        x = F.grid_sample(x, grid, mode="bicubic", align_corners=False)
        x = torch.relu(self.top(x)).mean((2, 3))
        return self.fc(torch.tanh(self.hidden(x)))  # type: ignore[no-any-return]


TINY = Family(MODEL, Tiny, "stem", size=24)

of_free_size = pytest.mark.skipif(
    torch.__version__ < "2.12", reason="PyTorch 2.11 fixes the size of affine_grid where it exports"
)


def cells(layer: str, *methods: str, formats: Sequence[str] = (".pt2",)) -> list[Cell]:
    return [Cell(MODEL, layer, method, suffix) for method in methods for suffix in formats]


def test_a_family_is_built_with_telling_weights() -> None:
    model = TINY.build()
    assert not model.training
    scores = model(TINY.images(3))
    assert scores.std(dim=0).min() > 1e-3
    assert torch.equal(TINY.build()(TINY.images(3)), scores)


def test_every_family_has_a_name_of_its_own() -> None:
    assert len(FAMILIES) > 40
    assert all(name == family.name for name, family in FAMILIES.items())


@of_free_size
def test_a_cell_is_a_proven_file() -> None:
    (cell,) = fill(TINY, cells("default", "gradcam"))
    assert (cell.outcome, cell.module, cell.size) == ("exact", "top", "free")
    assert cell.error is not None
    assert cell.error <= 1e-4
    assert cell.reason == ""


@of_free_size
def test_what_does_not_apply_and_what_fails() -> None:
    first, second = fill(TINY, cells("default", "cam", "activation"))
    assert first.outcome == "not applicable"
    assert "cam needs global average pooling" in first.reason
    assert second.outcome == "exact"
    (third,) = fill(TINY, cells("earlier", "gradcam"))
    assert third.outcome == "failed"
    assert "grid_sampler" in third.reason
    assert "\n" not in third.reason


@pytest.mark.slow
@of_free_size
@pytest.mark.parametrize(
    ("methods", "freed", "outcomes"),
    [
        pytest.param(("layercam", "gradcam"), [None], ["exact"] * 2),
        # FullGrad asks for a fixed size where a free one fails.
        pytest.param(
            ("layercam", "fullgrad", "finercam", "gradcam"),
            [None, False],
            ["exact", "failed", "exact", "exact"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_methods_share_a_trace_and_spoil_nothing(
    methods: Sequence[str], freed: Any, outcomes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: Any, **options: Any) -> Trace:
        calls.append(options)
        return trace(*arguments, **options)

    monkeypatch.setattr(traces, "trace", counted)
    together = list(fill(TINY, cells("default", *methods)))
    assert [options["dynamic_size"] for options in calls] == freed
    alone = [cell for method in methods for cell in fill(TINY, cells("default", method))]
    assert [replace(cell, seconds=0) for cell in together] == [
        replace(cell, seconds=0) for cell in alone
    ]
    assert [cell.outcome for cell in together] == outcomes


@pytest.mark.slow
def test_methods_that_ask_for_what_a_model_has_not() -> None:
    class NoReLU(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            x = F.gelu(self.top(self.norm(self.stem(x))))
            return self.fc(torch.tanh(self.hidden(x.mean((2, 3)))))  # type: ignore[no-any-return]

    family = Family(MODEL, NoReLU, "stem", size=24)
    methods = ("legrad", "guided-backprop", "guided-gradcam", "vit-reciprocam")
    for cell in fill(family, cells("default", *methods)):
        assert (cell.outcome, cell.error) == ("not applicable", None), cell
    # Where a layer is named: methods that take none.
    methods = ("fullgrad", "guided-backprop", "rise")
    for cell in fill(family, cells("earlier", *methods)):
        assert (cell.outcome, cell.reason) == ("not applicable", f"{cell.method} takes no layer")
    # A layer that does not exist is no matter of the method.
    (cell,) = fill(replace(family, earlier="nowhere"), cells("earlier", "cam"))
    assert cell.outcome == "failed"


def test_methods_of_many_passes_are_cut_short() -> None:
    of_many = {m.name for m in METHODS.values() if family_of(m).many_passes}
    assert of_many == {*OPTIONS, "reciprocam", "vit-reciprocam"} - {"randomcam"}
    for method in of_many & set(OPTIONS):
        assert set(OPTIONS[method]) <= set(METHODS[method].options)
    assert "rise with `n_masks=32`" in render([], {})


@pytest.mark.slow
def test_a_method_of_many_passes() -> None:
    (cell,) = fill(TINY, cells("default", "rise"))
    assert cell.outcome == "exact"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Cell]]:
    """`collect` without processes: what it was asked for."""
    asked: list[Sequence[Cell]] = []

    def collect(cells: Sequence[Cell], seconds: float, until: float) -> list[Cell]:
        asked.append(cells)
        return list(fill(TINY, cells)) if seconds > 0 else []

    monkeypatch.setattr(matrix, "collect", collect)
    return asked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "support.tsv"


@pytest.fixture
def run(path: Path) -> Callable[..., list[Cell]]:
    def run(*arguments: str) -> list[Cell]:
        chosen = ["--models", MODEL, "--formats", ".pt2", "--layers", "default"]
        main([*chosen, "--output", str(path), *arguments])
        return list(read_cells(path)[0].values())

    return run


@of_free_size
@pytest.mark.slow
def test_known_cells_are_kept(
    run: Callable[..., list[Cell]],
    calls: list[Sequence[Cell]],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(run("--methods", "activation")) == 1
    found = run("--methods", "activation", "cam")
    assert [[cell.method for cell in asked] for asked in calls] == [["activation"], ["cam"]]
    assert [cell.method for cell in found] == ["cam", "activation"]
    run("--methods", "cam", "--again")
    assert len(calls) == 3
    # Nor is what took too long left at that.
    _, versions = read_cells(path)
    late = replace(found[0], outcome="timeout", reason="no answer within 1 s")
    write_cells(path, [late, found[1]], versions)
    assert [cell.outcome for cell in run("--methods", "cam")] == ["not applicable", "exact"]
    assert len(calls) == 4
    # What other versions gave is no answer.
    monkeypatch.setattr(matrix, "_versions", lambda: {"camcore": "another"})
    assert [cell.method for cell in run("--methods", "cam")] == ["cam"]
    assert len(calls) == 5


@of_free_size
def test_the_page(run: Callable[..., list[Cell]], calls: list[Sequence[Cell]], path: Path) -> None:
    found = run("--methods", "activation", "cam")
    text = path.with_name("SUPPORT.md").read_text()
    versions = read_cells(path)[1]
    assert text == render(found, versions)
    assert "do not edit" in text
    assert "(support.tsv)" in text
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("| model |")).strip("| ").split(" | ")
    row = next(line for line in lines if line.startswith(f"| {MODEL} |")).strip("| ").split(" | ")
    cells = dict(zip(head, row, strict=True))
    earlier = FAMILIES[MODEL].earlier
    assert (cells["default layer"], cells["earlier layer"]) == ("`top`", f"`{earlier}`")
    assert (cells["exact"], cells["not applicable"]) == ("1", "1")
    assert cells["not run"] == str(len(LAYERS) * len(METHODS) * len(FORMATS) - 2)
    assert "torch " + versions["torch"] in text


def test_failures_are_on_the_page_in_full() -> None:
    failed = [
        replace(cell, outcome="failed", reason="a reason of its own")
        for cell in cells("earlier", "gradcam", formats=(".pt", ".pt2"))
    ]
    text = render(failed, {})
    assert "## What fails" in text
    assert f"- {MODEL}, earlier layer, gradcam .pt, gradcam .pt2: a reason of its own" in text
    assert "## What takes too long" not in text


def test_no_time_left(run: Callable[..., list[Cell]], calls: list[Sequence[Cell]]) -> None:
    assert run("--methods", "gradcam", "--minutes", "0") == []


SOME = [
    Cell(MODEL, "default", "cam", ".pt", "not applicable", reason="cam needs it", seconds=1),
    Cell(MODEL, "default", "gradcam", ".onnx", "failed", "top", "free", None, "off: by 1", 3),
    Cell(MODEL, "default", "gradcam", ".pt", "exact", "top", "free", 0.0, "", 4),
    Cell(MODEL, "default", "gradcam", ".pt2", "rounding", "top", "free", 1.02e-4, "", 5),
    Cell(MODEL, "earlier", "activation", ".onnx", "timeout", reason="no answer", seconds=6),
]


def test_cells_come_back_as_they_were(path: Path) -> None:
    write_cells(path, reversed(SOME), {"torch": "2.15.0"})
    known, versions = read_cells(path)
    assert list(known.values()) == SOME
    assert versions == {"torch": "2.15.0"}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"seconds": 400.0}, 0),
        ({"error": 1e-7}, 0),  # rounding errors, as another processor makes them
        ({"error": 5e-5}, 1),
        ({"error": 2e-4, "outcome": "rounding"}, 1),
        ({"error": None, "outcome": "failed", "reason": "why"}, 1),
    ],
)
def test_a_line_changes_where_a_result_does(
    changes: dict[str, Any], lines: int, path: Path
) -> None:
    write_cells(path, SOME, {})
    before = path.read_text().splitlines()
    known, versions = read_cells(path)
    enter(known, replace(SOME[2], **changes))
    write_cells(path, known.values(), versions)
    after = path.read_text().splitlines()
    assert sum(old != new for old, new in zip(before, after, strict=True)) == lines


@pytest.fixture(scope="module")
def known() -> dict[Place, Cell]:
    """What is written in the repository."""
    return read_cells(ROOT / "docs" / "support.tsv")[0]


def test_the_page_is_that_of_the_table() -> None:
    known, versions = read_cells(ROOT / "docs" / "support.tsv")
    page = (ROOT / "docs" / "SUPPORT.md").read_text()
    assert page == render(list(known.values()), versions)


def test_the_sample_sees_every_family_and_method(known: dict[Place, Cell]) -> None:
    cells = choose(known)
    assert cells == choose(dict(reversed(known.items())))
    assert {cell.model for cell in cells} == set(FAMILIES)
    assert {cell.method for cell in cells} == set(METHODS)
    assert {cell.format for cell in cells} == set(FORMATS)
    assert {cell.layer for cell in cells} == set(LAYERS)
    # What does not apply shows little.
    assert not [c for c in cells if known[c.place].outcome == "not applicable"]


def test_the_sample_takes_less_than_an_hour(known: dict[Place, Cell]) -> None:
    assert 0 < estimate(choose(known), known) < 60 * SAMPLE_MINUTES


def test_the_estimate() -> None:
    first, second, third = cells("default", "cam", "activation", "gradcam")
    known = {cell.place: replace(cell, seconds=s) for cell, s in ((first, 10), (second, 30))}
    assert estimate([first], known) == sample.START + 10
    # Of what was never run: as long as others took.
    assert estimate([second, third], known) == sample.START + 30 + 20
    assert estimate([], known) == 0


@pytest.fixture
def check(
    path: Path, calls: list[Sequence[Cell]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """A sample of one cell, `activation`, of which this was known; returned is the table."""

    def check(known: Cell | None, versions: dict[str, str] | None = None) -> str:
        monkeypatch.setattr(matrix, "choose", lambda known: cells("default", "activation"))
        if known:
            write_cells(path, [known], versions or matrix._versions())
        before = path.read_text() if known else ""
        main(["--output", str(path)])
        return before

    return check


@of_free_size
@pytest.mark.slow
def test_a_sample_runs_what_is_known_again(
    check: Callable[..., str],
    calls: list[Sequence[Cell]],
    path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (good,) = fill(TINY, cells("default", "activation"))
    before = check(replace(good, seconds=7))
    assert len(calls) == 1
    assert path.read_text() == before
    printed = capsys.readouterr().out
    assert printed.startswith("1 cells, some 0 minutes, stops after 60")
    assert "1 of 1 cells run, 0 changed" in printed
    # What was worse is better now, and written.
    check(replace(good, outcome="failed", error=None, reason="why"))
    assert [cell.outcome for cell in read_cells(path)[0].values()] == ["exact"]
    assert "1 changed" in capsys.readouterr().out


@of_free_size
def test_a_sample_that_fails_is_an_error(
    check: Callable[..., str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (good,) = fill(TINY, cells("default", "activation"))
    bad = replace(good, outcome="failed", error=None, reason="why", seconds=2)
    monkeypatch.setattr(matrix, "collect", lambda *_: [bad])
    with pytest.raises(SystemExit, match="1 cells fail that did not"):
        check(good)
    assert list(read_cells(path)[0].values()) == [bad]


@of_free_size
@pytest.mark.slow
def test_a_sample_of_other_versions_leaves_the_table(
    check: Callable[..., str], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (good,) = fill(TINY, cells("default", "activation"))
    before = check(replace(good, error=0.5, outcome="rounding"), {"torch": "another"})
    assert path.read_text() == before
    printed = capsys.readouterr().out
    assert "1 changed" in printed
    assert "of other versions and stays as it is" in printed


def test_a_process_that_takes_too_long() -> None:
    first, second = cells("default", "activation", "gradcam")
    (found,) = collect([first, second], seconds=0.1)
    assert (found.place, found.outcome) == (first.place, "timeout")
    assert "no answer within" in found.reason
    assert collect([first, second], seconds=0.1, until=0) == []


def test_a_process_that_dies() -> None:
    unknown = Cell("no such model", "default", "gradcam", ".pt2")
    (found,) = collect([unknown], seconds=60)
    assert found.outcome == "failed"
    assert "no such model" in found.reason


def test_a_process_fills_the_cells_it_is_given(tmp_path: Path) -> None:
    """Not all methods in all formats."""
    wanted = [*cells("default", "cam"), *cells("default", "legrad", formats=[".pt"])]
    lines = [json.dumps(asdict(cell)) for cell in wanted]
    (tmp_path / "wanted").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, MODEL, TINY)
        main(["--child", str(tmp_path)])
    found = [Cell(**json.loads(line)) for line in (tmp_path / "found").read_text().splitlines()]
    assert [cell.place for cell in found] == [cell.place for cell in wanted]
    assert all(cell.outcome != "not run" for cell in found)


@pytest.mark.slow
def test_a_process_of_its_own() -> None:
    (found,) = collect(cells("default", "activation"), seconds=120)
    assert (found.outcome, found.module) == ("exact", "classifier.2")
