"""Ray: a file explains images on many machines, a batch of rows at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from camcore.adapters.runner import Device
from camcore.adapters.running.entries import Entry, Kept, Task, entries
from camcore.adapters.running.job import open_job
from camcore.adapters.running.request import KeptMaps, Request
from camcore.adapters.running.rows import as_entries, as_table, schema
from camcore.adapters.serving.cluster import mapped
from camcore.adapters.stream import Failed, Given
from camcore.errors import InputError

# Columns that are read; all others are handed on.
_IMAGE, _BYTES, _PATH = "image", "bytes", "path"
_PICTURE, _MAPS = "overlay_to", "maps_to"
_NUMBER = "number"


class Explain:
    """Explains batches of images, for `ray.data.Dataset.map_batches` and what is like it.

    A batch has columns by their names. Its images are a column `image` of RGB pixels, uint8
    (H, W, 3), as `ray.data.read_images` gives it; or `bytes` of image files, as
    `ray.data.read_binary_files` does; or, without either, `path`, and the files are read here. With
    columns `overlay_to` and `maps_to` an image's overlay and maps are written to these files.

    What comes is a table of the same rows: `camcore.adapters.running.rows.schema` says its columns;
    behind them stand all further columns of the batch. An image that cannot be read or run has an
    `error`, and the others go on. Images of one shape are run together.

    Args:
        file: an exported file, which every machine finds under this name.
        classes: names or indices; by default the `top` best are explained.
        top: how many of the best classes are listed, and explained unless `classes` names others.
        batch: images of one shape that are run together, at most.
        device: where it runs, `cpu` or `cuda`.
        threads: how many threads run the file; ask Ray for as many CPUs.
        maps: how maps are kept in the table, `uint8` or `float16`; None for not at all.

    Raises:
        FileError, InputError, UnknownNameError: see `camcore.adapters.load`.

    >>> rows = ray.data.read_images("photos").map_batches(  # doctest: +SKIP
    ...     Explain,
    ...     fn_constructor_args=("resnet50.onnx",),
    ...     compute=ray.data.ActorPoolStrategy(size=4),
    ... )
    """

    def __init__(
        self,
        file: str | Path,
        *,
        classes: Sequence[str | int] = (),
        top: int | None = None,
        batch: int = 8,
        device: Device = "cpu",
        threads: int = 1,
        maps: KeptMaps | None = None,
    ) -> None:
        names = tuple(str(name) for name in classes)
        self._open(Request(Path(file), names, top, False, batch, device, threads, maps))

    def _open(self, request: Request) -> None:
        self._job = open_job(request)
        self._columns = schema(request.maps)

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        tasks = _tasks(batch)
        found = sorted(entries(self._job, tasks, by_shape=True), key=lambda entry: entry.number)
        table = as_table(found, self._columns)
        for name, values in batch.items():
            if name not in (_IMAGE, _BYTES, _PICTURE, _MAPS):
                table = table.append_column(name, _handed_on(name, values))
        return table


class _Run(Explain):
    """The same of a whole request."""

    def __init__(self, request: Request) -> None:
        self._open(request)


def ray_entries(request: Request, tasks: Sequence[Task]) -> Iterator[Entry]:
    """The entries of tasks, in order, by as many actors as the cluster has room for.

    The cluster is that of `RAY_ADDRESS`, or this machine.
    """
    threads = request.threads or 1
    by_actor = replace(
        request,
        file=request.file.absolute(),
        queries=tuple(path.absolute() for path in request.queries),
        threads=threads,
    )
    columns = pa.table(
        {
            _NUMBER: range(len(tasks)),
            _PATH: [_absolute(task.path) for task in tasks],
            _PICTURE: pa.array([_absolute(task.picture) for task in tasks], pa.string()),
            _MAPS: pa.array([_absolute(task.maps) for task in tasks], pa.string()),
        }
    )
    for table in mapped(_Run, by_actor, columns, request.device, threads):
        numbers = table[_NUMBER].to_pylist()
        for number, (record, kept) in zip(numbers, as_entries(table), strict=True):
            yield _as_asked(number, record, kept, tasks[number])


def _tasks(batch: Mapping[str, Any]) -> list[Task]:
    """The images of a batch of rows, and where their overlays and maps go."""
    for name in (_IMAGE, _BYTES, _PATH):
        if name in batch:
            count = len(batch[name])
            break
    else:
        raise InputError(
            f"the batch has columns {', '.join(batch)}; expected images as {_IMAGE}, {_BYTES} or "
            f"{_PATH}"
        )
    names = [Path(str(path)) for path in batch.get(_PATH, range(count))]
    contents = batch[name]
    images: list[Path | Given] = list(names)
    if name == _IMAGE:
        images = [Given(*each) for each in zip(names, contents, strict=True)]
    elif name == _BYTES:
        images = [Given(path, bytes(each)) for path, each in zip(names, contents, strict=True)]
    return [
        Task(image, _place(picture), _place(maps))
        for image, picture, maps in zip(
            images,
            batch.get(_PICTURE, [None] * count),
            batch.get(_MAPS, [None] * count),
            strict=True,
        )
    ]


def _place(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _absolute(path: Path | None) -> str | None:
    """The path as processes in other folders find it."""
    return None if path is None else str(path.absolute())


def _handed_on(name: str, values: Any) -> pa.Array:
    if np.ndim(values) > 1:
        raise InputError(
            f"column {name} holds arrays of shape {np.shape(values)[1:]}, which are not handed on; "
            f"drop it: dataset.drop_columns([{name!r}])"
        )
    return pa.array(values)


def _as_asked(number: int, record: dict[str, Any], kept: Kept | None, task: Task) -> Entry:
    """An entry with the paths that this machine was asked with."""
    failed = None
    if "error" in record:
        record["error"] = record["error"].replace(record["image"], str(task.path))
        failed = Failed(number, task.path, record["error"])
    record["image"] = str(task.path)
    if record["overlay"] is not None:
        record["overlay"] = str(task.picture)
    for explained in record["explained"]:
        if task.maps is not None:
            explained["map"] = str(task.maps.with_name(Path(explained["map"]).name))
    return Entry(number, record, kept, failed)
