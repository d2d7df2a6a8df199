"""Layouts in words."""

import pytest

from camcore.export.grids import Layout


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout("channels_first", 2), ""),
        (Layout("channels_last", 2), "channels last"),
        (Layout("tokens", 2, (7, 9)), "7 x 9 tokens"),
        (Layout("tokens", 2, (7, 9), 1), "7 x 9 tokens behind 1 other"),
        (Layout("tokens", 2, (7, 9), 5), "7 x 9 tokens behind 5 others"),
    ],
)
def test_layout_in_words(layout: Layout, words: str) -> None:
    assert layout.describe() == words
