"""Entries: the road of images through a file, to an entry of each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import stream
from camcore.adapters.results import failed_record, for_show, image_record, maps_of
from camcore.adapters.runner import Progress
from camcore.adapters.running.job import Job
from camcore.adapters.running.write import Show, show_picture, write_maps, write_picture
from camcore.adapters.stream import Failed, Given, Prepared, Result
from camcore.errors import CamcoreError

# Who is told of the steps of a batch, while it is run.
Steps = Callable[[Sequence[Prepared]], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class Task:
    """An image to be explained, and where its overlay and its maps go, None for nowhere.

    `show` is given the overlay as a picture, which then goes to no file.
    """

    image: Path | Given
    picture: Path | None = None
    maps: Path | None = None
    show: Show | None = None

    @property
    def path(self) -> Path:
        """What the image is called."""
        return self.image.path if isinstance(self.image, Given) else self.image


@dataclass(frozen=True)
class Kept:
    """The maps (K, H, W) of an image's explained classes, of the size that the file gives.

    `place` is where they lie, the left, top, right and bottom edge in the image's pixels.
    """

    maps: NDArray[Any]
    place: tuple[float, float, float, float]


@dataclass(frozen=True)
class Entry:
    """What came of a task: its record, as JSON takes it, and its maps, if they are kept.

    `failed` says why there is nothing else, `note` what the overlay does not show.
    """

    number: int
    record: dict[str, Any]
    kept: Kept | None = None
    failed: Failed | None = None
    note: str | None = None


def entries(
    job: Job,
    tasks: Iterable[Task],
    steps: Steps = lambda batch: nullcontext(),
    *,
    by_shape: bool = False,
) -> Iterator[Entry]:
    """The entries of tasks, with their files written, in order; or `by_shape`, in the order of
    batches that are fuller where shapes are mixed.
    """
    begun: dict[int, Task] = {}

    def images() -> Iterator[Path | Given]:
        for number, task in enumerate(tasks):
            begun[number] = task
            yield task.image

    batches = stream.batches_by_shape if by_shape else stream.batches
    prepared = stream.prepared_images(images(), job.spec)
    for batch, failures in batches(prepared, job.at_once):
        with steps(batch) as progress:
            results = [*failures, *stream.explained(job.explain, batch, progress)]
        for result in sorted(results, key=lambda result: result.number):
            task = begun.pop(result.number)
            if isinstance(result, Failed):
                record = failed_record(result.path, result.reason)
                yield Entry(result.number, record, failed=result)
            else:
                yield _entry(job, task, result)


def _entry(job: Job, task: Task, result: Result) -> Entry:
    listed = job.request.listed
    record = image_record(result.path, result.explanation, result.placement, job.card, listed)
    note = None
    if task.maps is not None:
        write_maps(job, task.maps, result, record)
    if task.show is not None:
        note = show_picture(job, task.show, result, record)
    elif task.picture is not None:
        note = write_picture(job, task.picture, result, record)
    return Entry(result.number, record, _kept(job, result), note=note)


def _kept(job: Job, result: Result) -> Kept | None:
    if job.request.maps is None:
        return None
    maps, place = maps_of(result.explanation), result.placement
    if job.request.maps == "uint8":
        shown = [for_show(each, job.card) for each in maps]
        maps = np.rint(np.clip(np.reshape(shown, maps.shape), 0, 1) * 255)
    edges = (place.left, place.top, place.right, place.bottom)
    return Kept(maps.astype(job.request.maps), edges)


def one_by_one(tasks: Iterable[Task], record: Callable[[Task], dict[str, Any]]) -> Iterator[Entry]:
    """The entries of tasks that are run alone, in order, with the record that is made of each."""
    for number, task in enumerate(tasks):
        try:
            yield Entry(number, record(task))
        except CamcoreError as error:
            failed = Failed(number, task.path, str(error))
            yield Entry(number, failed_record(task.path, failed.reason), failed=failed)
