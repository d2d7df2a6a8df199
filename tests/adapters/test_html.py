from base64 import b64decode
from io import BytesIO

import numpy as np
from PIL import Image

from camcore.adapters.html import document, picture, table


def test_a_document_holds_its_parts_and_its_title_as_text() -> None:
    page = document("a <b>", ["<p>one</p>", "", "<p>two</p>"], ".own { }")
    assert page.startswith("<!doctype html>")
    assert "<title>a &lt;b&gt;</title>" in page
    assert "<h1>a &lt;b&gt;</h1>\n<p>one</p>\n<p>two</p>\n</body>" in page
    assert ".own { }</style>" in page


def test_a_table_has_heads_where_there_are_any() -> None:
    assert table([["1", "<"]], ["a", "b"]) == (
        "<table>\n<tr><th>a</th><th>b</th></tr>\n<tr><td>1</td><td>&lt;</td></tr>\n</table>"
    )


def test_a_picture_is_in_its_element() -> None:
    element = picture(np.full((8, 9, 3), 200, np.uint8), 'a "b"')
    assert element.startswith('<img alt="a &quot;b&quot;" src="data:image/jpeg;base64,')
    content = b64decode(element.partition("base64,")[2].removesuffix('">'))
    pixels = np.asarray(Image.open(BytesIO(content)))
    assert pixels.shape == (8, 9, 3)
    assert np.abs(pixels.astype(int) - 200).max() <= 2
