"""The support matrix: what a cell says, what is run again, and what the table shows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import matrix, traces
from benchmarks.families import FAMILIES, NUM_CLASSES, Family
from benchmarks.matrix import OPTIONS, Cell, collect, fill, main, render
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
        x = F.grid_sample(x, grid, align_corners=False)
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


@of_free_size
def test_methods_share_a_trace_and_spoil_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any, **options: Any) -> Trace:
        calls.append(options)
        return trace(*arguments, **options)

    monkeypatch.setattr(traces, "trace", counted)
    methods = ("layercam", "fullgrad", "finercam", "gradcam")
    together = list(fill(TINY, cells("default", *methods)))
    # FullGrad asks for a fixed size where a free one fails.
    assert [options["dynamic_size"] for options in calls] == [None, False]
    alone = [cell for method in methods for cell in fill(TINY, cells("default", method))]
    assert [replace(cell, seconds=0) for cell in together] == [
        replace(cell, seconds=0) for cell in alone
    ]
    assert [cell.outcome for cell in together] == ["exact", "failed", "exact", "exact"]


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
    (cell,) = fill(TINY, cells("default", "rise"))
    assert cell.outcome == "exact"
    assert "rise with `n_masks=32`" in render({"versions": {}, "cells": []})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Cell]]:
    """`collect` without processes: what it was asked for."""
    asked: list[Sequence[Cell]] = []

    def collect(cells: Sequence[Cell], seconds: float, until: float) -> list[Cell]:
        asked.append(cells)
        return list(fill(TINY, cells))

    monkeypatch.setattr(matrix, "collect", collect)
    return asked


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        path = tmp_path / "support.json"
        chosen = ["--models", MODEL, "--formats", ".pt2", "--layers", "default"]
        main([*chosen, "--output", str(path), *arguments])
        return json.loads(path.read_text())

    return run


@of_free_size
def test_known_cells_are_kept(
    run: Callable[..., Any],
    calls: list[Sequence[Cell]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(run("--methods", "activation")["cells"]) == 1
    content = run("--methods", "activation", "cam")
    assert [[cell.method for cell in asked] for asked in calls] == [["activation"], ["cam"]]
    assert [cell["method"] for cell in content["cells"]] == ["cam", "activation"]
    run("--methods", "cam", "--again")
    assert len(calls) == 3
    # Nor is what took too long left at that.
    path = tmp_path / "support.json"
    content = json.loads(path.read_text())
    content["cells"][0] |= {"outcome": "timeout"}
    path.write_text(json.dumps(content))
    assert [cell["outcome"] for cell in run("--methods", "cam")["cells"]] == [
        "not applicable",
        "exact",
    ]
    assert len(calls) == 4
    # What other versions gave is no answer.
    monkeypatch.setattr(matrix, "_versions", lambda: {"camcore": "another"})
    assert [cell["method"] for cell in run("--methods", "cam")["cells"]] == ["cam"]
    assert len(calls) == 5


@of_free_size
def test_the_table(run: Callable[..., Any], calls: list[Sequence[Cell]], tmp_path: Path) -> None:
    content = run("--methods", "activation", "cam")
    text = (tmp_path / "SUPPORT.md").read_text()
    assert text == render(content)
    assert "do not edit" in text
    (row,) = (line for line in text.splitlines() if line.startswith(f"| {MODEL} | `top` |"))
    marks = dict(zip(METHODS, row.strip("| ").split(" | ")[4:], strict=True))
    assert marks.pop("cam") == "··-"
    assert marks.pop("activation") == "··✓"
    assert set(marks.values()) == {"···"}
    assert f"- {MODEL}, default layer, cam .pt2: cam needs" in text
    assert "torch " + content["versions"]["torch"] in text


def test_no_time_left(run: Callable[..., Any]) -> None:
    assert run("--methods", "gradcam", "--minutes", "0")["cells"] == []


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


@pytest.mark.slow
def test_a_process_of_its_own() -> None:
    (found,) = collect(cells("default", "activation"), seconds=120)
    assert (found.outcome, found.module) == ("exact", "classifier.2")
