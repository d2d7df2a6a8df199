"""What is timed is right, and told."""

from typing import Any

import numpy as np
import pytest

from benchmarks.queries import check, render
from benchmarks.timing import compare

RANDOM = np.random.default_rng(0)
EMBEDDING, QUERIES = RANDOM.normal(size=(1, 6)), RANDOM.normal(size=(3, 6))


def explained(**changes: Any) -> list[Any]:
    lengths = np.linalg.norm(EMBEDDING) * np.linalg.norm(QUERIES, axis=1)
    right = {
        "embedding": EMBEDDING,
        "scores": EMBEDDING @ QUERIES.T / lengths,
        "classes": np.arange(3)[None],
        "maps": np.broadcast_to(np.linspace(0, 1, 4), (1, 3, 4, 4)),
    }
    return list((right | changes).values())


def test_only_what_is_right_is_timed() -> None:
    check([EMBEDDING], explained(), QUERIES)
    for name, change in (
        ("embedding", {"embedding": EMBEDDING + 1}),
        ("scores", {"scores": EMBEDDING @ QUERIES.T}),
        ("2 maps for 3", {"maps": np.zeros((1, 2, 4, 4))}),
        ("constant", {"maps": np.zeros((1, 3, 4, 4))}),
    ):
        with pytest.raises(ValueError, match=name):
            check([EMBEDDING], explained(**change), QUERIES)


def test_the_table() -> None:
    rows = {("gradcam", 4): compare([0.1, 0.1, 0.1], [0.1, 0.15, 0.2])}
    text = render(rows, {"cores": 2})
    assert "| gradcam | 4 | 1.50x (1.25 to 1.75) | 150.0 | 100.0 |" in text
    assert "Measured on: cores 2." in text
