"""Page: a comparison as one HTML file that opens without a server and without a network; or its
table in Markdown.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from camcore.adapters import html, overlay
from camcore.adapters.evaluation.compare import PICTURE_WIDTH, Compared, LeftOut
from camcore.adapters.evaluation.plot import curves_svg
from camcore.adapters.evaluation.summary import FIGURES
from camcore.adapters.images import read_image

# Of which a low value is good.
_LOW = {("faithfulness", "deletion"), ("faithfulness", "average_drop")}


def html_page(title: str, rows: Sequence[Compared | LeftOut], shown: Sequence[Path]) -> str:
    """The table of all methods, their pictures side by side, and what was left out and why."""
    compared = [row for row in rows if isinstance(row, Compared)]
    left_out = [row for row in rows if isinstance(row, LeftOut)]
    parts = [
        _table(compared),
        _legend(compared),
        _curves(compared),
        _pictures(compared, shown),
        _left_out(left_out),
    ]
    return html.document(title, parts)


def measured(rows: Sequence[Compared]) -> list[tuple[str, str]]:
    """The figures that any of the rows has, as keys of `FIGURES`."""
    return [key for key in FIGURES if any(_value(row, key) is not None for row in rows)]


def best(rows: Sequence[Compared], key: tuple[str, str]) -> float | None:
    """The best value of a figure among the rows.

    >>> best([], ("boxes", "mAP")) is None
    True
    """
    values = [value for row in rows if (value := _value(row, key)) is not None]
    if not values:
        return None
    return min(values) if key in _LOW else max(values)


def _value(row: Compared, key: tuple[str, str]) -> float | None:
    value: Any = (row.found.get(key[0]) or {}).get(key[1])
    return value if value is None else float(value)


def markdown_table(rows: Sequence[Compared | LeftOut]) -> str:
    """The table of all methods in Markdown, and below it what was left out and why."""
    compared = [row for row in rows if isinstance(row, Compared)]
    heads, *lines = table_cells(compared)
    text = [heads, ["---", "---", *["--:"] * (len(heads) - 2)], *lines]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in text)
    left_out = [f"- {row.method}: {row.reason}" for row in rows if isinstance(row, LeftOut)]
    return "\n".join([table, "", *left_out]) + "\n" if left_out else table + "\n"


def table_cells(rows: Sequence[Compared]) -> list[list[str]]:
    """The table's heads, and the cells of each method."""
    keys = measured(rows)
    heads = ["method", "layer", "ms", "MB", "images", *(FIGURES[key][0] for key in keys)]
    return [heads] + [
        [
            row.method,
            row.layer,
            f"{row.milliseconds:.1f}",
            f"{row.megabytes:.2f}",
            str(row.images),
            *("" if (value := _value(row, key)) is None else f"{value:.1%}" for key in keys),
        ]
        for row in rows
    ]


def _table(rows: Sequence[Compared]) -> str:
    heads, *lines = table_cells(rows)
    keys = [None] * 5 + measured(rows)
    text = ["<table><tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>"]
    for row, cells in zip(rows, lines, strict=True):
        marks = [_mark(rows, row, key) for key in keys]
        marks[1] = ' class="text"'
        joined = "".join(
            f"<td{mark}>{escape(cell)}</td>" for mark, cell in zip(marks, cells, strict=True)
        )
        text.append(f"<tr>{joined}</tr>")
    return "\n".join([*text, "</table>"])


def _mark(rows: Sequence[Compared], row: Compared, key: tuple[str, str] | None) -> str:
    value = None if key is None else _value(row, key)
    best_there = value is not None and key is not None and value == best(rows, key)
    return ' class="best"' if best_there else ""


def _legend(rows: Sequence[Compared]) -> str:
    told = [
        f"<li>{escape(FIGURES[key][0])}: {escape(FIGURES[key][1])}</li>" for key in measured(rows)
    ]
    return "<ul>" + "".join(told) + "</ul>" if told else ""


def _curves(rows: Sequence[Compared]) -> str:
    """MaxBoxAcc of every method, threshold by threshold, where there were annotations."""
    found = {row.method: (row.found.get("localisation") or {}).get("curves") for row in rows}
    known = {method: curves for method, curves in found.items() if curves is not None}
    if not known:
        return ""
    thresholds = next(iter(known.values()))["thresholds"]
    curves = {method: each["box_acc"] for method, each in known.items()}
    svg = curves_svg(thresholds, curves, "share of objects whose box has an IoU of at least 0.5")
    return f"<h2>MaxBoxAcc at each threshold</h2>\n{svg}"


def _pictures(rows: Sequence[Compared], shown: Sequence[Path]) -> str:
    """The images in a row, and below each the maps of the methods for its best class."""
    lines = ['<h2>Maps of the best class</h2><div class="pictures"><table>']
    originals = [
        html.picture(overlay.shrunk(read_image(path), PICTURE_WIDTH), path.name) for path in shown
    ]
    lines.append("<tr><td>image</td>" + "".join(f"<td>{each}</td>" for each in originals) + "</tr>")
    for row in rows:
        cells = [f"<td>{html.picture(each, row.method)}</td>" for each in row.pictures]
        lines.append(f"<tr><td>{escape(row.method)}</td>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table></div>"])


def _left_out(rows: Sequence[LeftOut]) -> str:
    if not rows:
        return ""
    told = [f"<li>{escape(row.method)}: {escape(row.reason)}</li>" for row in rows]
    return "<h2>Left out</h2><ul>" + "".join(told) + "</ul>"
