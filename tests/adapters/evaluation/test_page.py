import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camcore.adapters.evaluation.compare import Compared, LeftOut
from camcore.adapters.evaluation.page import best, html_page, markdown_table


def row(method: str, pointing: float | None, deletion: float) -> Compared:
    curves = {"thresholds": [0.0, 0.5], "box_acc": [deletion, 0.0]} if method == "cam" else None
    found = {
        "localisation": {"pointing_game": pointing, "max_box_acc": None, "curves": curves},
        "faithfulness": {"deletion": deletion},
        "boxes": None,
    }
    picture = np.full((8, 8, 3), 200 if method == "fem" else 20, np.uint8)
    return Compared(method, "block<4>", 2.5, 12.25, 7, found, [picture])


ROWS = [row("cam", 0.5, 0.25), LeftOut("legrad", "no <attention>"), row("fem", 0.75, 0.5)]


class Reader(HTMLParser):
    """Cells by row, with their classes; images; open elements."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[list[Any]]] = []
        self.images: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(["", dict(attrs).get("class")])
        elif tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1][0] += data


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_page_is_whole_and_wants_nothing_from_elsewhere(photo: Path) -> None:
    text = html_page("A & B", ROWS, [photo])
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert not re.search(r"https?://|<script|<link|@import", text)
    heads, cam, fem, *pictures = reader.rows
    assert [cell for cell, _ in heads] == [
        *["method", "layer", "ms", "MB", "images"],
        *["pointing game", "deletion"],  # those that any of them has
    ]
    assert [cell for cell, _ in cam] == ["cam", "block<4>", "12.2", "2.50", "7", "50.0%", "25.0%"]
    # Of deletion less is better.
    assert [cell for cell, mark in cam if mark == "best"] == ["25.0%"]
    assert [cell for cell, mark in fem if mark == "best"] == ["75.0%"]
    assert [cells[0][0] for cells in pictures] == ["image", "cam", "fem"]
    assert "cam: 25.0%</text>" in text  # the only one with curves
    assert "<svg" not in html_page("A", ROWS[2:], [photo])
    assert "legrad: no &lt;attention&gt;" in text
    assert "<title>A &amp; B</title>" in text
    colours = []
    for source in reader.images:
        head, content = source.split(",")
        assert head == "data:image/jpeg;base64"
        colours.append(np.asarray(Image.open(BytesIO(b64decode(content)))).mean(axis=(0, 1)))
    np.testing.assert_allclose(colours, [[254, 0, 0], [20] * 3, [200] * 3], atol=3)


def test_the_table_in_markdown() -> None:
    lines = markdown_table(ROWS).splitlines()
    assert lines[0] == "| method | layer | ms | MB | images | pointing game | deletion |"
    assert lines[2] == "| cam | block<4> | 12.2 | 2.50 | 7 | 50.0% | 25.0% |"
    assert lines[-1] == "- legrad: no <attention>"
    assert {line.count("|") for line in lines[:4]} == {8}
    assert markdown_table(ROWS[:1]).count("\n") == 3


def test_the_best_of_what_is_there() -> None:
    rows = [row("a", None, 0.5), row("b", 0.25, 0.75)]
    assert best(rows, ("localisation", "pointing_game")) == 0.25
    assert best(rows, ("faithfulness", "deletion")) == 0.5
    assert best(rows, ("boxes", "mAP")) is None
