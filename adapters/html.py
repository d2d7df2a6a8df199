"""HTML: pages that open without a server and without a network, pictures and style in them."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child, td.text { text-align: left }
td.best { font-weight: bold; background: #e7f4e4 }
.pictures { overflow-x: auto } .pictures td { text-align: center } img { display: block }
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """A page of these parts, which are HTML, below its title, which is text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def table(rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """A table of texts.

    >>> table([["a", "<b>"]])
    '<table>\\n<tr><td>a</td><td>&lt;b&gt;</td></tr>\\n</table>'
    """
    lines = [("th", heads)] if heads else []
    lines += [("td", row) for row in rows]
    text = [
        "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"
        for kind, cells in lines
    ]
    return "\n".join(["<table>", *text, "</table>"])


def picture(pixels: NDArray[np.uint8], text: str) -> str:
    """An RGB picture (H, W, 3) as an element that holds it; the text is for who cannot see it."""
    content = BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=85)
    encoded = b64encode(content.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/jpeg;base64,{encoded}">'
