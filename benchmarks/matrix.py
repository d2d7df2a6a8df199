"""What camcore can export: `make matrix`, or `python -m benchmarks.matrix`.

Each cell is one file: a model, a layer, a method and a format. It was written and proven as every
file of `camcore.export.save` is, against eager PyTorch on images, batch sizes and classes that the
export never saw, or it says what stood in the way. A process is started for each model, so that one
that hangs, or takes all memory, costs its own cells alone; there it is traced once for all methods.

By default a sample is run again, and what fails that did not is an error. Of the whole, or of the
part that is asked for, cells that are in the table already, from the same versions, are not run
again, unless they ran out of time.
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
from dataclasses import asdict, replace
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.export import ExportedProgram

from benchmarks.cells import (
    FORMATS,
    LAYERS,
    OPTIONS,
    Cell,
    Place,
    enter,
    is_the_same,
    outcome_of,
    read_cells,
    write_cells,
)
from benchmarks.families import FAMILIES, Family
from benchmarks.sample import choose, estimate
from benchmarks.support import TABLE, render
from benchmarks.traces import Traces
from camcore.errors import CamcoreError, ExportError
from camcore.export import Explained, explain, save
from camcore.export.families import family_of
from camcore.export.write.capture import capture
from camcore.methods import METHODS, get_method

ROOT = Path(__file__).resolve().parent.parent
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
SAMPLE_MINUTES = 60
# How the errors begin that say that a method asks for what a model does not have.
INAPPLICABLE = (
    "cam needs",
    "guided gradients are those of guided ReLUs",
    "legrad explains",
    "vit-reciprocam masks tokens",
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.child:
        _work(options.child)
        return
    versions = _versions()
    before, theirs = read_cells(options.output)
    known = dict(before)
    asked = options.models, options.layers, options.methods, options.formats
    is_sample = not options.all and not any(asked)
    if is_sample:
        wanted, minutes = choose(known), SAMPLE_MINUTES
    else:
        if theirs != versions:
            known = {}
        wanted, minutes = _whole(*asked), float("inf")
        if not options.again:
            wanted = [cell for cell in wanted if not _is_settled(known.get(cell.place))]
    wanted = [cell for cell in wanted if _is_installed(cell.model)]
    minutes = minutes if options.minutes is None else options.minutes
    estimated = f"{len(wanted)} cells, some {estimate(wanted, before) / 60:.0f} minutes"
    print(f"{estimated}, stops after {minutes:.0f}" if minutes < float("inf") else estimated)
    # What a few cells give with other versions would be lost among those of the rest.
    keeps = not is_sample or not known or theirs == versions
    found = []
    for cells in _run(wanted, options.timeout, time.monotonic() + 60 * minutes):
        for cell in cells:
            print(_line(cell), flush=True)
            enter(known, cell)
        found += cells
        if keeps:
            _write(options.output, known, versions)
    if not keeps:
        print(f"{options.output} is of other versions and stays as it is: --all makes it anew")
    if is_sample:
        _judge(found, len(wanted), before)
    elif not found:
        _write(options.output, known, versions)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--all", action="store_true", help="the whole, not a sample")
    part = parser.add_argument_group("a part of the whole")
    part.add_argument("--models", nargs="+", choices=FAMILIES)
    part.add_argument("--layers", nargs="+", choices=LAYERS)
    part.add_argument("--methods", nargs="+", choices=METHODS)
    part.add_argument("--formats", nargs="+", choices=FORMATS)
    parser.add_argument(
        "--again", action="store_true", help="of the whole or a part, what is known as well"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"stop after so many; by default a sample stops after {SAMPLE_MINUTES}",
    )
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each model")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / TABLE)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser


def _whole(
    models: Iterable[str] | None,
    layers: Iterable[str] | None,
    methods: Iterable[str] | None,
    formats: Iterable[str] | None,
) -> list[Cell]:
    """All cells of what is named; where nothing is, of everything."""
    return [
        Cell(model, layer, method, suffix)
        for layer in layers or LAYERS
        for model in models or FAMILIES
        for method in methods or METHODS
        for suffix in formats or FORMATS
    ]


def _run(wanted: Iterable[Cell], timeout: float, until: float) -> Iterator[list[Cell]]:
    for _, cells in groupby(wanted, lambda cell: (cell.model, cell.layer)):
        yield collect(list(cells), min(timeout, until - time.monotonic()), until)


def _judge(found: Sequence[Cell], wanted: int, before: Mapping[Place, Cell]) -> None:
    """Say how the cells of a sample compare with what was known; it is an error if some fail."""
    known = [(before[cell.place], cell) for cell in found if cell.place in before]
    changed = [pair for pair in known if not is_the_same(*pair)]
    for old, new in changed:
        print(f"changed: {_line(new)}; it was {old.outcome}")
    print(f"{len(found)} of {wanted} cells run, {len(changed)} changed")
    failed = ("failed", "timeout")
    worse = [old for old, new in changed if new.outcome in failed and old.outcome not in failed]
    if worse:
        raise SystemExit(f"{len(worse)} cells fail that did not")


def _work(folder: Path) -> None:
    """What a process does for `collect`: fill the cells that lie in the folder."""
    cells = [Cell(**json.loads(line)) for line in _lines(folder / "wanted")]
    with (folder / "found").open("a") as file:
        for cell in fill(FAMILIES[cells[0].model], cells):
            file.write(json.dumps(asdict(cell)) + "\n")
            file.flush()


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
        found = {"outcome": outcome_of(error), "error": error}
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found, said = folder / "found", folder / "said"
        (folder / "wanted").write_text("".join(json.dumps(asdict(cell)) + "\n" for cell in cells))
        command = [sys.executable, "-m", "benchmarks.matrix", "--child", str(folder)]
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
    return filled


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


def _write(path: Path, cells: Mapping[Place, Cell], versions: Mapping[str, str]) -> None:
    write_cells(path, cells.values(), versions)
    # From the file, so that the page never says more than the table does.
    written, versions = read_cells(path)
    path.with_name("SUPPORT.md").write_text(render(list(written.values()), versions))


def _line(cell: Cell) -> str:
    error = f", {cell.error:.1e}" if cell.error is not None else ""
    reason = f": {cell.reason}" if cell.reason else ""
    place = f"{cell.model} {cell.module or cell.layer} {cell.method} {cell.format}"
    return f"{place}: {cell.outcome}{error}, {cell.seconds:.0f} s{reason}"


if __name__ == "__main__":
    main()
