"""What camcore can export: `make matrix`, or `python -m benchmarks.matrix`.

Each cell is one file: a model, a layer, a method and a format. It was written and proven as every
file of `camcore.export.save` is, against eager PyTorch on images, batch sizes and classes that the
export never saw, or it says what stood in the way. A process is started for each model, so that one
that hangs, or takes all memory, costs its own cells alone; there it is traced once for all methods.
Cells that are in the JSON file already, from the same versions, are not run again, unless they ran
out of time.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.export import ExportedProgram

from benchmarks.families import FAMILIES, Family
from benchmarks.report import markdown_table
from benchmarks.traces import Traces
from camcore.errors import CamcoreError, ExportError
from camcore.export import Explained, explain, save
from camcore.export.families import family_of
from camcore.export.prove.prove import TOLERANCE
from camcore.export.write.capture import capture
from camcore.methods import METHODS, get_method

ROOT = Path(__file__).resolve().parent.parent
FORMATS = (".onnx", ".pt", ".pt2")
LAYERS = ("default", "earlier")
DISTRIBUTIONS = (
    "camcore",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
)
MARKS = {
    "exact": "✓",
    "rounding": "≈",
    "not applicable": "-",
    "failed": "✗",
    "timeout": "◷",
    "not run": "·",
}
MEANINGS = {
    "exact": f"proven, the worst relative error is at most {TOLERANCE:.0e}",
    "rounding": "proven, as near to double precision as single precision comes, which for this "
    f"model and method is further than {TOLERANCE:.0e}",
    "not applicable": "the method asks for what the model does not have",
    "failed": "no file: see below",
    "timeout": "no answer in the time allowed",
    "not run": "not run",
}
# Methods of many passes are cut short: the file is of the same operators for one pass or thousands.
OPTIONS: dict[str, dict[str, Any]] = {
    "ablationcam": {"ratio": 0.1},
    "scorecam": {"channels": 8},
    "sscam": {"samples": 2, "channels": 8},
    "iscam": {"samples": 2, "channels": 8},
    "rise": {"n_masks": 32},
    # Rectified, a random sum may be empty for every image.
    "randomcam": {"relu": False},
}
# How the errors begin that say that a method asks for what a model does not have.
INAPPLICABLE = (
    "cam needs",
    "guided gradients are those of guided ReLUs",
    "legrad explains",
    "vit-reciprocam masks tokens",
)


@dataclass(frozen=True)
class Cell:
    """One file that was to be made, and what came of it.

    `layer` is `default` or `earlier`, `module` its name; `size` is what the file says of height and
    width; `error` is the worst relative error of the proof, `reason` why there is no file.
    """

    model: str
    layer: str
    method: str
    format: str
    outcome: str = "not run"
    module: str = ""
    size: str = ""
    error: float | None = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.model, self.layer, self.method, self.format


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.child:
        with options.child.open("a") as file:
            cells = [
                Cell(options.models[0], options.layers[0], method, suffix)
                for method in options.methods
                for suffix in options.formats
            ]
            for cell in fill(FAMILIES[options.models[0]], cells):
                file.write(json.dumps(asdict(cell)) + "\n")
                file.flush()
        return
    versions = _versions()
    known = {cell.place: cell for cell in _read(options.output, versions)}
    until = time.monotonic() + 60 * options.minutes
    for layer in options.layers:
        for model in options.models:
            wanted = [
                Cell(model, layer, method, suffix)
                for method in options.methods
                for suffix in options.formats
            ]
            missing = [
                cell for cell in wanted if options.again or not _is_settled(known.get(cell.place))
            ]
            if not missing or not _is_installed(model):
                continue
            seconds = min(options.timeout, until - time.monotonic())
            for cell in collect(missing, seconds, until):
                print(_line(cell), flush=True)
                known[cell.place] = cell
            _write(options.output, versions, known.values())
    _write(options.output, versions, known.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=LAYERS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each model")
    parser.add_argument("--again", action="store_true", help="run what is there already as well")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "support.json")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser


def fill(family: Family, cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of one model and layer, each exported and proven, method by method."""
    model, traces = family.build(), Traces()
    example = torch.zeros(1, 3, family.size, family.size)
    layer = family.earlier if cells[0].layer == "earlier" else None
    for method in dict.fromkeys(cell.method for cell in cells):
        options = OPTIONS.get(method, {}) | family.explained | family.options.get(method, {})
        start = time.monotonic()
        with traces.shared():
            made, failed = _attempt(
                lambda method=method, options=options: _captured(  # type: ignore[misc]
                    explain(model, example, method=method, layer=layer, **options)
                )
            )
        if layer and not family_of(get_method(method)).takes_layers:
            failed = {"outcome": "not applicable", "reason": f"{method} takes no layer"}
        spent = time.monotonic() - start
        ours = [cell for cell in cells if cell.method == method]
        # ONNX last, for its writer changes the program that all of them take.
        for cell in sorted(ours, key=lambda cell: cell.format == ".onnx"):
            if made is None:
                yield replace(cell, **failed, seconds=round(spent, 1))
            else:
                yield _saved(cell, *made, spent)


def _captured(explained: Explained) -> tuple[Explained, ExportedProgram]:
    return explained, capture(explained)


def _saved(cell: Cell, explained: Explained, program: ExportedProgram, spent: float) -> Cell:
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        # Which gives the same for each format.
        patch("camcore.export.capture", lambda _: program),
    ):
        path = Path(folder) / f"model{cell.format}"
        card, found = _attempt(lambda: save(explained, path))
    if card is not None:
        error = card.proof["worst_relative_error"]
        found = {"outcome": "exact" if error <= TOLERANCE else "rounding", "error": error}
    free = explained.card.image.is_any_size
    return replace(
        cell,
        **found,
        module=explained.card.layer,
        size="free" if free else "fixed",
        seconds=round(spent + time.monotonic() - start, 1),
    )


def _attempt(action: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What an action returned, or why it did not, as fields of a cell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return action(), {}
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        if not isinstance(error, CamcoreError):
            reason = f"{type(error).__name__}: {reason}"
        inapplicable = isinstance(error, ExportError) and reason.startswith(INAPPLICABLE)
        return None, {
            "outcome": "not applicable" if inapplicable else "failed",
            "reason": reason,
        }


def collect(cells: Sequence[Cell], seconds: float, until: float = float("inf")) -> list[Cell]:
    """The cells of one model and layer, filled in a process of its own.

    The one that is at work when the time is up is a `timeout`, unless `until` has come, when all
    work ends; those behind it are left out. Where the process dies, the cell is told its last
    words.
    """
    if seconds <= 0:
        return []
    first = cells[0]
    with tempfile.TemporaryDirectory() as folder:
        found, said = Path(folder) / "cells", Path(folder) / "said"
        methods = dict.fromkeys(cell.method for cell in cells)
        formats = dict.fromkeys(cell.format for cell in cells)
        command = [sys.executable, "-m", "benchmarks.matrix", "--child", str(found)]
        command += ["--models", first.model, "--layers", first.layer]
        command += ["--methods", *methods, "--formats", *formats]
        # One thread, so that several runs may share a machine; and nothing is downloaded.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with said.open("w") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
        filled = [Cell(**json.loads(line)) for line in _lines(found)]
        last_words = (_lines(said) or [""])[-1]
    places = {cell.place for cell in filled}
    missing = [cell for cell in cells if cell.place not in places]
    if missing and code is None and time.monotonic() < until:
        reason = f"no answer within {seconds:.0f} s"
        filled.append(replace(missing[0], outcome="timeout", reason=reason))
    elif missing and code:
        reason = f"the process ended with {code}: {last_words}"
        filled.append(replace(missing[0], outcome="failed", reason=reason))
    wanted = {cell.place for cell in cells}
    return [cell for cell in filled if cell.place in wanted]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _is_settled(known: Cell | None) -> bool:
    return known is not None and known.outcome != "timeout"


def _is_installed(model: str) -> bool:
    library = model.partition("/")[0] if "/" in model else "torchvision"
    return importlib.util.find_spec(library) is not None


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _read(path: Path, versions: Mapping[str, str]) -> list[Cell]:
    """The cells of a file, if they come from the same versions."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    if content["versions"] != versions:
        return []
    return [Cell(**cell) for cell in content["cells"]]


def _write(path: Path, versions: Mapping[str, str], cells: Iterable[Cell]) -> None:
    ranks = [{name: n for n, name in enumerate(names)} for names in (FAMILIES, LAYERS, METHODS)]

    def rank(cell: Cell) -> tuple[int, ...]:
        names = (cell.model, cell.layer, cell.method)
        places = [table.get(name, -1) for table, name in zip(ranks, names, strict=True)]
        return *places, FORMATS.index(cell.format)

    ordered = [asdict(cell) for cell in sorted(cells, key=rank)]
    path.write_text(json.dumps({"versions": versions, "cells": ordered}, indent=1) + "\n")
    # From the file, so that the table never says more than the file does.
    path.with_name("SUPPORT.md").write_text(render(json.loads(path.read_text())))


def _line(cell: Cell) -> str:
    error = f", {cell.error:.1e}" if cell.error is not None else ""
    reason = f": {cell.reason}" if cell.reason else ""
    place = f"{cell.model} {cell.module or cell.layer} {cell.method} {cell.format}"
    return f"{place}: {cell.outcome}{error}, {cell.seconds:.0f} s{reason}"


def render(content: Mapping[str, Any]) -> str:
    """SUPPORT.md from the content of support.json."""
    cells = [Cell(**cell) for cell in content["cells"]]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    counts = {name: sum(cell.outcome == name for cell in cells) for name in MARKS}
    total = len(FAMILIES) * len(LAYERS) * len(METHODS) * len(FORMATS)
    counts["not run"] = total - len(cells)
    legend = [
        f"- {MARKS[name]} {MEANINGS[name]} ({count})" for name, count in counts.items() if count
    ]
    text = [
        "# Support",
        "Written by `make matrix` from `support.json`; do not edit. A mark is one file: the three "
        f"of a method are {', '.join(f'`{suffix}`' for suffix in FORMATS)}, in this order. Models "
        "have random weights, which were calibrated so that maps are telling; the names before a "
        "slash are libraries, the others are torchvision's. For each model there is its default "
        "layer, then one before it. `size` says whether height and width of the file are free, "
        "`worst` is the worst relative error among its files.",
        "\n".join(legend),
        f"Methods of many passes are cut short, and a random map is not rectified: {_options()}.",
        f"Versions: {versions}.",
        markdown_table(
            [
                _record(model, layer, [c for c in cells if (c.model, c.layer) == (model, layer)])
                for model in FAMILIES
                for layer in LAYERS
            ]
        ),
    ]
    for outcome, title in (
        ("failed", "What fails"),
        ("timeout", "What takes too long"),
        ("not applicable", "What does not apply"),
    ):
        lines = _reasons(cell for cell in cells if cell.outcome == outcome)
        if lines:
            text += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(text) + "\n"


def _options() -> str:
    of_models = [
        f"{name}'s {_told(each.options)}" for name, each in FAMILIES.items() if each.options
    ]
    return "; ".join([_told(OPTIONS), *of_models])


def _told(options: Mapping[str, Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{method} with " + ", ".join(f"`{name}={value}`" for name, value in each.items())
        for method, each in options.items()
    )


def _record(model: str, layer: str, cells: Sequence[Cell]) -> dict[str, str]:
    marks = {(cell.method, cell.format): MARKS[cell.outcome] for cell in cells}
    named = next((cell for cell in cells if cell.module), None)
    errors = [cell.error for cell in cells if cell.error is not None]
    module = FAMILIES[model].earlier if layer == "earlier" else named.module if named else ""
    by_method = {
        method: "".join(marks.get((method, suffix), MARKS["not run"]) for suffix in FORMATS)
        for method in METHODS
    }
    return {
        "model": model,
        "layer": f"`{module}`" if module else "",
        "size": named.size if named else "",
        "worst": f"{max(errors):.1e}" if errors else "",
        **by_method,
    }


def _reasons(cells: Iterable[Cell]) -> list[str]:
    """For each model and reason, the files that it stands in the way of."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        # The same reason names several layers, so it is told once for each.
        files = found.setdefault((cell.model, cell.layer, cell.reason), [])
        files.append(f"{get_method(cell.method).name} {cell.format}")
    return [
        f"- {model}, {layer} layer, {', '.join(files)}: {reason}"
        for (model, layer, reason), files in found.items()
    ]


if __name__ == "__main__":
    main()
