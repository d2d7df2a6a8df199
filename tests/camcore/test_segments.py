"""Counts and least values by place, beside NumPy's own, which write in place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from camcore._segments import count_at, least_at, take_at
from tests.backends import Backend


@given(
    rows=st.integers(0, 3), n=st.integers(1, 12), size=st.integers(1, 9), seed=st.integers(0, 999)
)
def test_by_place(backend: Backend, rows: int, n: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    named = rng.integers(0, size + 1, (rows, n))
    counts = np.zeros((rows, size + 1), dtype=np.int64)
    np.add.at(counts, (np.arange(rows)[:, None], named), 1)
    backend.assert_close(count_at(backend.array(named), size), counts[:, :size], "int64")

    table, values = rng.integers(0, 20, (rows, size)), rng.integers(0, 20, (rows, n))
    places = rng.integers(0, size, (rows, n))
    least = table.copy()
    np.minimum.at(least, (np.arange(rows)[:, None], places), values)
    given_arrays = (backend.array(each) for each in (table, places, values))
    backend.assert_close(least_at(*given_arrays, bound=19), least, "int64")

    taken = take_at(backend.array(table), backend.array(places))
    backend.assert_close(taken, np.take_along_axis(table, places, axis=1), "int64")
