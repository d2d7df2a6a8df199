"""Parquet: a run's entries as a folder of files, each written as soon as it is full.

A folder, as Spark and Ray write one, and not one file: a Parquet file can be read only when it was
written to its end, and an interrupted run is to lose nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from camcore.adapters.files import replacing
from camcore.adapters.paths import make_folder
from camcore.adapters.running.entries import Entry
from camcore.adapters.running.request import KeptMaps
from camcore.adapters.running.rows import as_table, schema
from camcore.errors import FileError

_MARK = b"camcore_run"  # what tells the files of a run from those of another

# A file is full with so many rows, with so many bytes of maps, or behind so many seconds.
_MOST_ROWS = 1000
_MOST_BYTES = 2**26
_MOST_SECONDS = 60.0


@contextmanager
def recording_rows(
    folder: Path, mark: str, maps: KeptMaps | None
) -> Iterator[Callable[[Entry], None]]:
    """What adds entries to a folder of Parquet files, in files behind those that are there.

    Raises:
        FileError: one cannot be written.
    """
    make_folder(folder)
    columns = schema(maps).with_metadata({_MARK: mark})
    waiting: list[Entry] = []
    size = 0
    begun = time.monotonic()

    def flush() -> None:
        nonlocal size, begun
        if waiting:
            with replacing(_next_file(folder)) as scratch:
                pq.write_table(as_table(waiting, columns), scratch, compression="zstd")
            waiting.clear()
        size, begun = 0, time.monotonic()

    def write(entry: Entry) -> None:
        nonlocal size
        waiting.append(entry)
        size += 0 if entry.kept is None else entry.kept.maps.nbytes
        full = len(waiting) == _MOST_ROWS or size >= _MOST_BYTES
        if full or time.monotonic() - begun > _MOST_SECONDS:
            flush()

    try:
        yield write
    finally:
        flush()


def done_rows(folder: Path, mark: str) -> Counter[str]:
    """How often each image is in a folder of Parquet files, empty where there are none.

    Images that failed are taken out, to be tried again.

    Raises:
        FileError: the rows are of another file or of other options, or are none of a run.
    """
    done: Counter[str] = Counter()
    for path in files_in(folder):
        try:
            file = pq.ParquetFile(path)
            known = file.read(["image", "error"])
        except (OSError, pa.ArrowException) as error:
            raise FileError(f"{path} cannot be read: {error}; delete it") from error
        if (file.schema_arrow.metadata or {}).get(_MARK) != mark.encode():
            raise FileError(
                f"{path} is of another run: of another file, or with other classes, sizes or maps; "
                "give another folder, or delete it"
            )
        good = pc.is_null(known["error"])
        done.update(known.filter(good)["image"].to_pylist())
        if not pc.all(good).as_py():
            with replacing(path) as scratch:
                pq.write_table(file.read().filter(good), scratch, compression="zstd")
    return done


def files_in(folder: Path) -> list[Path]:
    """A run's Parquet files in their order."""
    return sorted(folder.glob("part-*.parquet"))


def _next_file(folder: Path) -> Path:
    last: Any = [int(path.stem.removeprefix("part-")) for path in files_in(folder)]
    return folder / f"part-{max(last, default=-1) + 1:06}.parquet"
