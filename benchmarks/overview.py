"""The page of methods and families, `benchmarks/METHODS.md`: the ratios that matter."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from benchmarks.book import About, Entry, opening
from benchmarks.families import FAMILIES
from benchmarks.peers import NAMES
from benchmarks.report import Row, markdown_table

PEERS = tuple(dict.fromkeys(library for names in NAMES.values() for library in names))


def render(entries: Sequence[Entry], about: About) -> str:
    """METHODS.md from the rows of the table."""
    rows = [entry.row for entry in entries]
    text = [
        *opening(entries, about),
        "\n".join(f"- {name}: {each.explanation}" for name, each in about.sections.items()),
        "Under the name of a method is the time of its file beside the plain file, `median` and "
        "`most` are those of all methods; under the name of a library is its time beside the file, "
        "the lowest and the highest where the maps are the same, and how often they are, of how "
        "often the library has the method.",
        "## Families",
        markdown_table(
            [_family(group) for group in _grouped(rows, lambda row: row.model, FAMILIES)]
        ),
        "## Methods",
        markdown_table([_method(group) for group in _grouped(rows, _method_of, NAMES)]),
    ]
    missed = [row for row in rows if row.verdict == "missed"]
    if missed:
        text += ["## Limits missed", "\n".join(_missed(row) for row in missed)]
    return "\n\n".join(text) + "\n"


def _grouped(
    rows: Sequence[Row], key: Callable[[Row], str], names: Iterable[str]
) -> list[list[Row]]:
    """The rows of each name, of those that have any."""
    groups = ([row for row in rows if key(row) == name] for name in names)
    return [group for group in groups if group]


def _method_of(row: Row) -> str:
    return str(row.facts["method"])


def _family(rows: Sequence[Row]) -> dict[str, str]:
    ours = _timed(rows, "beside the prediction")
    found = {_method_of(row): _middle(row) for row in ours}
    layers = [row.layer for row in ours if _method_of(row) == "gradcam"]
    times = [row.baseline_ms for row in ours if row.baseline_ms is not None]
    return {
        "model": rows[0].model,
        "layer": f"`{layers[0]}`" if layers else "",
        "plain, ms": f"{median(times):.1f}" if times else "",
        **{name: _ratio(found.get(name)) for name in ("gradcam", "eigencam", "fullgrad")},
        **_range(ours, _method_of),
        **_peers(rows),
    }


def _method(rows: Sequence[Row]) -> dict[str, str]:
    ours = _timed(rows, "beside the prediction")
    return {"method": _method_of(rows[0]), **_range(ours, lambda row: row.model), **_peers(rows)}


def _timed(rows: Iterable[Row], section: str) -> list[Row]:
    return [row for row in rows if row.section == section and row.ratio]


def _middle(row: Row) -> float:
    assert row.ratio
    return row.ratio[1]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _range(rows: Sequence[Row], named: Callable[[Row], str]) -> dict[str, str]:
    if not rows:
        return {"median": "", "most": ""}
    most = max(rows, key=_middle)
    return {
        "median": _ratio(median(_middle(row) for row in rows)),
        "most": f"{_ratio(_middle(most))} ({named(most)})",
    }


def _peers(rows: Sequence[Row]) -> dict[str, str]:
    found = {}
    for library in PEERS:
        asked = [row for row in rows if row.facts.get("peer") == library]
        ratios = [_middle(row) for row in _timed(asked, "beside others")]
        ends = dict.fromkeys(f"{end(ratios):.1f}x" for end in (min, max) if ratios)
        told = [" to ".join(ends)] if ends else []
        found[library] = ", ".join([*told, f"{len(ratios)} of {len(asked)}"]) if asked else ""
    return found


def _missed(row: Row) -> str:
    peer = f" beside {row.facts['peer']}" if "peer" in row.facts else ""
    limit = f"{row.limit_kind} {row.limit:g}x"
    return f"- {row.model}, {_method_of(row)}{peer}: {_middle(row):.3f}x, {limit}"
