"""Segments: what falls on each place of a table, counted, or the least of it.

The array API standard has no scatter. A sort says the same, and is slow in a graph, where the
exporters of torch have an operator for it.
"""

from typing import Any

from array_api_compat import device, is_torch_namespace

from camcore._arrays import Array, namespace


def count_at(places: Array, size: Any, /) -> Array:
    """How often each of the places 0 to size - 1 is named, int64 (N, size), by places int64 (N, n).

    What names the place `size` is not counted.
    """
    xp = namespace(places)
    if is_torch_namespace(xp):
        nothing = xp.zeros((places.shape[0], size + 1), dtype=xp.int64, device=device(places))
        return nothing.scatter_add(1, places, xp.ones_like(places))[:, :size]
    named, firsts = _in_order(places, size + 1, 1)
    ends = xp.searchsorted(named, firsts, side="right")
    starts = xp.searchsorted(named, firsts, side="left")
    return xp.reshape(ends - starts, (places.shape[0], size + 1))[:, :size]


def least_at(table: Array, places: Array, values: Array, /, *, bound: Any) -> Array:
    """The table (N, m), and at each place the least of its own value and of those that name it.

    All are int64; places and values (N, n), these from 0 to bound.
    """
    xp = namespace(table, places, values)
    if is_torch_namespace(xp):
        return table.scatter_reduce(1, places, values, "amin", include_self=True)
    apart = bound + 1
    named, firsts = _in_order(places * apart + values, table.shape[1], apart)
    # One more, for what nothing names may be the last place.
    named = xp.concat(
        [named, xp.full((1,), firsts.shape[0] * apart, dtype=xp.int64, device=device(table))]
    )
    found = xp.take(named, xp.searchsorted(named, firsts)) - firsts
    found = xp.reshape(found, table.shape)
    return xp.where(found < apart, xp.minimum(table, found), table)


def take_at(table: Array, places: Array, /) -> Array:
    """What each row of a table (N, m) has at its places (N, n), int64 from 0 to m - 1."""
    xp = namespace(table, places)
    if is_torch_namespace(xp):
        # Less is computed: the standard's function knows negative places, and others' rows.
        return table.gather(1, places)
    return xp.take_along_axis(table, places, axis=-1)


def _in_order(keys: Array, size: int, apart: int) -> tuple[Array, Array]:
    """Keys (N, n) of all rows in ascending order, and the first key of each of their places.

    A row has `size` places, so many keys `apart`, and those of the next row come behind them.
    """
    xp = namespace(keys)
    rows = xp.arange(keys.shape[0], dtype=xp.int64, device=device(keys))
    ordered = xp.sort(xp.reshape(keys + rows[:, None] * (size * apart), (-1,)))
    places = xp.arange(keys.shape[0] * size, dtype=xp.int64, device=device(keys))
    return ordered, places * apart
