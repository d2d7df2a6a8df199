"""Results that grow from run to run, for measurements that take too long for one.

A line of their table is a comparison; a note of the table is a machine, with the versions there,
and the column `measured` says which.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.report import Row, described, line, markdown_sections
from benchmarks.table import Record, Table, read, write

# What tells rows of the same section, model and layer apart.
_TOLD_APART = ("method", "options", "peer", "channels", "side", "maps")
_SPREAD = ("low", "ratio", "high")
# What else ran there before tells runs of one machine apart, and no machines.
_OF_A_RUN = ("load_before",)


@dataclass(frozen=True)
class Section:
    """What all rows of a section have in common, and what it is about."""

    explanation: str
    baseline: str
    contender: str
    size: str = "fixed"
    device: str = "cpu"


@dataclass(frozen=True)
class About:
    """What a page says of itself: a heading, how it came about, and its sections by name.

    `facts` are the columns of the table for what rows know beside their times.
    """

    title: str
    introduction: str
    sections: Mapping[str, Section]
    facts: tuple[str, ...]

    def row(self, section: str, **fields: Any) -> Row:
        """A row of a section, with what its rows have in common."""
        common = {k: v for k, v in asdict(self.sections[section]).items() if k != "explanation"}
        return Row(section=section, **(common | fields))

    @property
    def columns(self) -> tuple[str, ...]:
        return (
            *("section", "model", "layer"),
            *(name for name in self.facts if name in _TOLD_APART),
            *_SPREAD,
            *("limit", "baseline ms", "contender ms", "pairs"),
            *(name for name in self.facts if name not in _TOLD_APART),
            *("measured", "refused"),
        )


@dataclass(frozen=True)
class Entry:
    """A row and the machine that it was measured on."""

    row: Row
    machine: Mapping[str, str]


Render = Callable[[Sequence[Entry], About], str]


def render(entries: Sequence[Entry], about: About) -> str:
    """The page with all rows, in Markdown."""
    explanations = {name: section.explanation for name, section in about.sections.items()}
    sections = markdown_sections([entry.row for entry in entries], explanations)
    return "\n\n".join([*opening(entries, about), *sections]) + "\n"


def opening(entries: Iterable[Entry], about: About) -> list[str]:
    """What a page begins with: its heading, how it came about, and on which machines."""
    machines = dict.fromkeys(described(entry.machine) for entry in entries)
    return [
        f"# {about.title}",
        about.introduction,
        *(f"Machine: {machine}." for machine in machines),
    ]


class Book:
    """A table of results and its page: what was measured before stays, unless it is new now."""

    def __init__(
        self,
        path: Path,
        page: str,
        machine: Mapping[str, Any],
        about: About,
        render: Render = render,
    ) -> None:
        self._path, self._page = path, path.with_name(page)
        self._about, self._render = about, render
        self._machine = {
            name: str(value)
            for name, value in machine.items()
            if value is not None and name not in _OF_A_RUN
        }

    def enter(self, rows: Iterable[Row]) -> None:
        """Print and keep rows, each as soon as it is there."""
        for row in rows:
            print(line(row), flush=True)
            entries = read_entries(self._path, self._about)
            kept = [entry for entry in entries if not _gives_way(entry.row, row)]
            write_entries(self._path, [*kept, Entry(row, self._machine)], self._about)
            # From the file, so that the page never says more than the table does.
            page = self._render(read_entries(self._path, self._about), self._about)
            self._page.write_text(page)


def _key(row: Row) -> tuple[str, ...]:
    facts = [str(row.facts.get(name) or "") for name in _TOLD_APART]
    # Numbers in their own order.
    facts = [fact.rjust(6) if fact.isdigit() else fact for fact in facts]
    return row.section, row.model, row.layer, *facts


def _gives_way(old: Row, new: Row) -> bool:
    """Whether they are of one thing, which may be refused before its layer is known."""
    if "" in (old.layer, new.layer):
        old, new = replace(old, layer=""), replace(new, layer="")
    return _key(old) == _key(new)


def read_entries(path: Path, about: About) -> list[Entry]:
    table = read(path)
    return [Entry(_row(record, about), table.notes[record["measured"]]) for record in table.records]


def write_entries(path: Path, entries: Iterable[Entry], about: About) -> None:
    """Write the table, its machines under the names that they had there."""
    entries = sorted(entries, key=lambda entry: _key(entry.row))
    notes = {
        name: facts
        for name, facts in read(path).notes.items()
        if any(entry.machine == facts for entry in entries)
    }
    for entry in entries:
        if entry.machine not in notes.values():
            free = next(n for n in range(1, len(notes) + 2) if str(n) not in notes)
            notes[str(free)] = entry.machine
    names = {tuple(facts.items()): name for name, facts in notes.items()}
    records = [
        _record(entry.row) | {"measured": names[tuple(entry.machine.items())]} for entry in entries
    ]
    write(path, about.columns, Table(records, notes))


def _record(row: Row) -> dict[str, str]:
    record = {"section": row.section, "model": row.model, "layer": row.layer}
    record["refused"] = row.refused
    if row.limit is not None:
        record["limit"] = f"{row.limit_kind} {row.limit:g}"
    if row.ratio:
        record |= {name: f"{value:.3f}" for name, value in zip(_SPREAD, row.ratio, strict=True)}
    if row.baseline_ms is not None and row.contender_ms is not None:
        record["baseline ms"] = f"{row.baseline_ms:.2f}"
        record["contender ms"] = f"{row.contender_ms:.2f}"
        record["pairs"] = str(row.pairs)
    facts = {name: value for name, value in row.facts.items() if value is not None}
    return record | {
        name: f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in facts.items()
    }


def _row(record: Record, about: About) -> Row:
    fields: dict[str, Any] = {"model": record["model"], "layer": record["layer"]}
    fields["refused"] = record["refused"]
    if record["limit"]:
        kind, _, limit = record["limit"].rpartition(" ")
        fields |= {"limit": float(limit), "limit_kind": kind}
    if record["ratio"]:
        fields["ratio"] = tuple(float(record[name]) for name in _SPREAD)
    if record["pairs"]:
        fields |= {
            "baseline_ms": float(record["baseline ms"]),
            "contender_ms": float(record["contender ms"]),
            "pairs": int(record["pairs"]),
        }
    fields["facts"] = {
        name: _number(value) for name, value in record.items() if name in about.facts and value
    }
    return about.row(record["section"], **fields)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
