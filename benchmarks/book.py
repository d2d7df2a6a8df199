"""Results that grow from run to run, for measurements that take too long for one."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Row, described, line, markdown_sections

# What tells rows of the same section, model and layer apart.
_TOLD_APART = ("method", "options", "peer", "channels")


@dataclass(frozen=True)
class About:
    """What a table says of itself: a heading, how it came about, and of each section what it is."""

    title: str
    introduction: str
    sections: Mapping[str, str]


class Book:
    """A results file and its table: what was measured before stays, unless it is new now."""

    def __init__(self, path: Path, table: str, machine: dict[str, Any], about: About) -> None:
        self._path, self._machine, self._about = path, machine, about
        self._table = path.with_name(table)
        self._rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._rows = {_key(row): row for row in json.loads(path.read_text())["rows"]}

    def enter(self, rows: Iterable[Row]) -> None:
        """Print and keep rows, each as soon as it is there."""
        for row in rows:
            print(line(row), flush=True)
            entry = asdict(row) | {"measured": self._machine}
            self._rows = {k: old for k, old in self._rows.items() if not _gives_way(old, entry)}
            self._rows[_key(entry)] = entry
            results = {"rows": [self._rows[key] for key in sorted(self._rows)]}
            self._path.write_text(json.dumps(results, indent=1) + "\n")
            # From the file, so that the table never says more than the file does.
            self._table.write_text(render(json.loads(self._path.read_text()), self._about))


def _key(row: Mapping[str, Any]) -> str:
    facts = [str(row["facts"].get(name) or "").rjust(4) for name in _TOLD_APART]
    return "/".join([row["section"], row["model"], row["layer"], *facts])


def _gives_way(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether they are of one thing, which was refused once before its layer was known."""
    unknown = "" in (old["layer"], new["layer"])
    return unknown and _key({**old, "layer": ""}) == _key({**new, "layer": ""})


def render(results: Mapping[str, Any], about: About) -> str:
    """The table, in Markdown, from the content of the results file."""
    # What else ran there before tells runs of one machine apart, and no machines.
    machines = dict.fromkeys(
        described(row["measured"] | {"load_before": None}) for row in results["rows"]
    )
    rows = [
        Row(**{name: value for name, value in row.items() if name != "measured"})
        for row in results["rows"]
    ]
    text = [
        f"# {about.title}",
        about.introduction,
        *(f"Machine: {machine}." for machine in machines),
        *markdown_sections(rows, about.sections),
    ]
    return "\n\n".join(text) + "\n"
