"""The cells of the support matrix, and the table they are kept in, `docs/support.tsv`.

A line of the table is a method at a layer of a model, with one column for each format: the worst
relative error where there is a file, `-` where the method asks for what the model does not have,
else what happened and why.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.families import FAMILIES
from benchmarks.table import Record, Table, read, write
from camcore.export.prove.prove import TOLERANCE
from camcore.methods import METHODS

FORMATS = (".onnx", ".pt", ".pt2")
LAYERS = ("default", "earlier")
OUTCOMES = ("exact", "rounding", "not applicable", "failed", "timeout", "not run")
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
# Another processor rounds otherwise: an error of this size, or within this factor, is the same.
NOISE, NOISE_FACTOR = 1e-6, 3.0
COLUMNS = (
    "model",
    "layer",
    "method",
    "module",
    "size",
    *FORMATS,
    *(f"{suffix} s" for suffix in FORMATS),
    "not applicable",
)

Place = tuple[str, str, str, str]


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
    def place(self) -> Place:
        return self.model, self.layer, self.method, self.format


def outcome_of(error: float) -> str:
    """What a file is whose proof found this worst relative error."""
    return "exact" if error <= TOLERANCE else "rounding"


def is_the_same(old: Cell, new: Cell) -> bool:
    """Whether they say the same of one file; how long it took is not part of it."""
    if replace(old, error=None, seconds=0) != replace(new, error=None, seconds=0):
        return False
    if old.error is None or new.error is None:
        return old.error == new.error
    low, high = sorted((max(old.error, NOISE), max(new.error, NOISE)))
    return high <= NOISE_FACTOR * low


def enter(known: dict[Place, Cell], cell: Cell) -> None:
    """Keep a cell, unless it says what is known: then that stays as it is written."""
    old = known.get(cell.place)
    if old is None or not is_the_same(old, cell):
        known[cell.place] = cell


def read_cells(path: Path) -> tuple[dict[Place, Cell], dict[str, str]]:
    """The cells of a table by their places, and the versions that they come from."""
    table = read(path)
    cells = [cell for record in table.records for cell in _cells(record)]
    return {cell.place: cell for cell in cells}, dict(table.notes.get("versions", {}))


def write_cells(path: Path, cells: Iterable[Cell], versions: Mapping[str, str]) -> None:
    ranks = [{name: n for n, name in enumerate(names)} for names in (FAMILIES, LAYERS, METHODS)]

    def rank(cell: Cell) -> list[int]:
        names = (cell.model, cell.layer, cell.method)
        return [table.get(name, -1) for table, name in zip(ranks, names, strict=True)]

    records = [
        _record(list(group))
        for _, group in groupby(sorted(cells, key=rank), lambda cell: cell.place[:3])
    ]
    write(path, COLUMNS, Table(records, {"versions": versions}))


def _record(cells: Iterable[Cell]) -> Record:
    """The line of a method at a layer of a model."""
    record: dict[str, str] = {}
    for cell in cells:
        record |= {"model": cell.model, "layer": cell.layer, "method": cell.method}
        if cell.module:
            record |= {"module": cell.module, "size": cell.size}
        if cell.outcome == "not applicable":
            record["not applicable"] = cell.reason
        record |= {cell.format: _told(cell), f"{cell.format} s": f"{cell.seconds:.0f}"}
    return record


def _told(cell: Cell) -> str:
    if cell.error is not None:
        return f"{cell.error:.3g}"
    return "-" if cell.outcome == "not applicable" else f"{cell.outcome}: {cell.reason}"


def _cells(record: Record) -> Iterable[Cell]:
    """The cells of a line, one for each format that was run."""
    for suffix in FORMATS:
        told = record[suffix]
        if not told:
            continue
        cell = Cell(
            record["model"],
            record["layer"],
            record["method"],
            suffix,
            module=record["module"],
            size=record["size"],
            seconds=float(record[f"{suffix} s"]),
        )
        outcome, colon, reason = told.partition(": ")
        if told == "-":
            yield replace(cell, outcome="not applicable", reason=record["not applicable"])
        elif colon:
            yield replace(cell, outcome=outcome, reason=reason)
        else:
            yield replace(cell, outcome=outcome_of(float(told)), error=float(told))
