"""Stream: images of files, decoded and prepared ahead in the background, run in batches of one
shape.

However many images there are, no more than a few are in memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.images import Placement, decode_image, prepare, read_image
from camcore.adapters.runner import Explanation, Progress
from camcore.card import ImageSpec
from camcore.errors import CamcoreError, InputError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # images that are ready, or being made so, before they are asked for

# Pixels of the images of a batch, as they are in their files and as they are run: a photograph of
# a camera is a batch by itself.
_MOST_PIXELS = 2**23


@dataclass(frozen=True)
class Given:
    """An image that is in memory already, the bytes of a file or RGB pixels; `path` is its name."""

    path: Path
    content: bytes | NDArray[np.uint8]

    def pixels(self) -> NDArray[np.uint8]:
        """The image as `read_image` gives it."""
        if isinstance(self.content, bytes):
            return decode_image(self.content, self.path)
        return self.content


@dataclass(frozen=True)
class Prepared:
    """An image file's picture, RGB uint8 (H, W, 3), and what the graph takes of it, (1, ...)."""

    number: int
    path: Path
    image: NDArray[np.uint8]
    array: NDArray[Any]
    placement: Placement


@dataclass(frozen=True)
class Failed:
    """An image file of which nothing came, and why."""

    number: int
    path: Path
    reason: str


def prepared_images(images: Iterable[Path | Given], spec: ImageSpec) -> Iterator[Prepared | Failed]:
    """The images in order, each read and prepared in the background while others are looked at."""

    def prepared(numbered: tuple[int, Path | Given]) -> Prepared | Failed:
        number, given = numbered
        path = given.path if isinstance(given, Given) else given
        try:
            image = given.pixels() if isinstance(given, Given) else read_image(given)
            array, placement = prepare(image, spec)
        except CamcoreError as error:
            return Failed(number, path, str(error))
        return Prepared(number, path, image, array, placement)

    return _ahead(prepared, enumerate(images))


def batches(
    images: Iterable[Prepared | Failed], most: int
) -> Iterator[tuple[Sequence[Prepared], Sequence[Failed]]]:
    """Up to `most` images in a row whose arrays are of one shape; and what failed among them."""
    batch: list[Prepared] = []
    failures: list[Failed] = []
    for image in images:
        if isinstance(image, Failed):
            failures.append(image)
            continue
        if batch and not _fits(batch, image, most):
            yield batch, failures
            batch, failures = [], []
        batch.append(image)
        if len(batch) == most:
            yield batch, failures
            batch, failures = [], []
    if batch or failures:
        yield batch, failures


def batches_by_shape(
    images: Iterable[Prepared | Failed], most: int
) -> Iterator[tuple[Sequence[Prepared], Sequence[Failed]]]:
    """The same of images that need not be in a row: a few wait for others of their shape."""
    waiting: dict[tuple[int, ...], list[Prepared]] = {}
    for image in images:
        if isinstance(image, Failed):
            yield [], [image]
            continue
        batch = waiting.setdefault(image.array.shape, [])
        batch.append(image)
        full = len(batch) == most
        if full or _pixels([each for held in waiting.values() for each in held]) > _MOST_PIXELS:
            largest = batch if full else max(waiting.values(), key=_pixels)
            yield waiting.pop(largest[0].array.shape), []
    for batch in waiting.values():
        yield batch, []


def _pixels(images: Iterable[Prepared]) -> float:
    """Pixels of images, as they are in their files and as they are run."""
    return sum(each.image.size + each.array.size for each in images) / 3


def _fits(batch: Sequence[Prepared], image: Prepared, most: int) -> bool:
    return (
        len(batch) < most
        and batch[0].array.shape == image.array.shape
        and _pixels((*batch, image)) <= _MOST_PIXELS
    )


def _ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The function of each item in order, computed in one other thread, a few items ahead."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="camcore-images")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Result(Prepared):
    """An image and what the file gave for it, arrays of one row."""

    explanation: Explanation[NDArray[Any]]


def explained(
    explain: Callable[[Any, Progress | None], Explanation[NDArray[Any]]],
    batch: Sequence[Prepared],
    progress: Progress | None,
) -> list[Result | Failed]:
    """What is explained of each image of a batch, all at once; and if that fails, one by one."""
    if not batch:
        return []
    images = np.concatenate([each.array for each in batch])
    try:
        given = explain(images, progress)
    except InputError as error:
        if len(batch) > 1:
            return [result for each in batch for result in explained(explain, [each], None)]
        (only,) = batch
        return [Failed(only.number, only.path, str(error))]
    return [
        Result(**vars(each), explanation=_row(given, row, len(batch)))
        for row, each in enumerate(batch)
    ]


def _row(given: Explanation[NDArray[Any]], row: int, count: int) -> Explanation[NDArray[Any]]:
    """One image's part of a batch; an output that has no row for each image is all images'."""
    return Explanation(
        {
            name: value[row : row + 1] if value.shape[:1] == (count,) else value
            for name, value in given.items()
        }
    )
