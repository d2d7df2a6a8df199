"""Rows: entries as an Arrow table, the columns of which are the keys of their records."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from camcore.adapters.running.entries import Entry, Kept
from camcore.adapters.running.request import KeptMaps

_CLASS = {
    "class": pa.int64(),
    "name": pa.string(),
    "score": pa.float64(),
    "probability": pa.float64(),
}
_BOXES = pa.list_(pa.struct({"box": pa.list_(pa.float64()), "score": pa.float64()}))
_EXPLAINED = {
    **_CLASS,
    "peak": pa.struct({"x": pa.float64(), "y": pa.float64()}),
    "map": pa.string(),
    "boxes": _BOXES,
}
_COLUMNS = {
    "image": pa.string(),
    "error": pa.string(),
    "predictions": pa.list_(pa.struct(_CLASS)),
    "explained": pa.list_(pa.struct(_EXPLAINED)),
    "overlay": pa.string(),
}
_VALUES = {"uint8": pa.uint8(), "float16": pa.float16()}


def schema(maps: KeptMaps | None) -> pa.Schema:
    """The columns of a run's rows.

    With maps there are three more: `maps`, the values of all explained classes in a row;
    `map_shape`, K, H and W; and `map_place`, the left, top, right and bottom edge of what they
    cover, in the image's pixels.
    """
    if maps is None:
        return pa.schema(_COLUMNS)
    kept = {
        "maps": pa.list_(_VALUES[maps]),
        "map_shape": pa.list_(pa.int32()),
        "map_place": pa.list_(pa.float64()),
    }
    return pa.schema(_COLUMNS | kept)


def as_table(entries: Iterable[Entry], columns: pa.Schema) -> pa.Table:
    """Entries as rows."""
    return pa.Table.from_pylist([_row(entry) for entry in entries], columns)


def _row(entry: Entry) -> dict[str, Any]:
    if entry.kept is None:
        return entry.record
    return {
        **entry.record,
        "maps": entry.kept.maps.ravel(),
        "map_shape": entry.kept.maps.shape,
        "map_place": entry.kept.place,
    }


def as_entries(table: pa.Table) -> Iterator[tuple[dict[str, Any], Kept | None]]:
    """The record that each row was made of, and the maps in it."""
    with_maps = "maps" in table.column_names
    wanted = [*_COLUMNS, *(("map_shape", "map_place") if with_maps else ())]
    for number, row in enumerate(table.select(wanted).to_pylist()):
        kept = None
        if with_maps and row["map_shape"] is not None:
            values = table["maps"][number].values.to_numpy()  # a list of numbers would be slow
            kept = Kept(values.reshape(row["map_shape"]), tuple(row["map_place"]))
        yield _record(row), kept


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    record = {name: row[name] for name in _COLUMNS}
    if record["error"] is None:
        del record["error"]
    for explained in record["explained"]:
        if explained["boxes"] is None:
            del explained["boxes"]
    return record
