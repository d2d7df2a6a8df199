"""Tables of results as plain text: a line a row, tab-separated, under one header.

What many rows share, such as versions or a machine, is told once above the header, in a note: a
line `# name`, then its facts. So a line changes only where its own result did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# A row as text, column by column; an empty one may be left out.
Record = Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Rows in the order of the file, and the facts of each note by their names."""

    records: Sequence[Record] = ()
    notes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read(path: Path) -> Table:
    """The table of a file; empty, if there is none.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "table.tsv")
    ...     write(path, ("model", "ratio"), Table([{"model": "a"}], {"versions": {"torch": "2"}}))
    ...     print(path.read_text().replace("\\t", " | "))
    ...     print(read(path))
    # versions | torch 2
    model | ratio
    a
    <BLANKLINE>
    Table(records=[{'model': 'a', 'ratio': ''}], notes={'versions': {'torch': '2'}})
    """
    if not path.exists():
        return Table()
    lines = path.read_text().splitlines()
    notes = {}
    while lines and lines[0].startswith("# "):
        name, *facts = lines.pop(0)[2:].split("\t")
        notes[name] = dict(fact.split(" ", 1) for fact in facts)
    if not lines:
        return Table([], notes)
    columns, *rows = (line.split("\t") for line in lines)
    padded = [row + [""] * (len(columns) - len(row)) for row in rows]
    return Table([dict(zip(columns, row, strict=True)) for row in padded], notes)


def write(path: Path, columns: Sequence[str], table: Table) -> None:
    """Write a table; every column of its rows is among `columns`."""
    lines = [
        "\t".join([f"# {name}", *(f"{key} {_plain(value)}" for key, value in facts.items())])
        for name, facts in table.notes.items()
    ]
    lines.append("\t".join(columns))
    for record in table.records:
        unknown = record.keys() - set(columns)
        if unknown:
            raise ValueError(f"the table has no column {', '.join(sorted(unknown))}")
        fields = [_plain(record.get(column, "")) for column in columns]
        # Empty ones at the end would be white space that editors take away.
        lines.append("\t".join(fields).rstrip("\t"))
    path.write_text("\n".join(lines) + "\n")


def _plain(text: str) -> str:
    """The text without what would end a field or a line."""
    return " ".join(text.split())
