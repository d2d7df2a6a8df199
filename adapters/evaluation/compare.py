"""Compare: the methods of one model beside each other, each as a file, on the same images."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import overlay
from camcore.adapters.evaluation import record
from camcore.adapters.evaluation.annotations import AnnotatedImage, Annotations
from camcore.adapters.evaluation.evaluate import (
    Told,
    evaluated,
    figures,
    judging,
    keep,
    predicting,
)
from camcore.adapters.images import prepare, read_image
from camcore.adapters.runner import Runner, load
from camcore.errors import CamcoreError

_TIMED_RUNS = 7
_TIMED_SECONDS = 2.0
PICTURE_WIDTH = 180  # pixels


@dataclass(frozen=True)
class Compared:
    """A method's file, what it costs, and what was found with it.

    `milliseconds` is the median time of an image with the map of its best class; `images` is how
    many were evaluated in the time there was, and `found` what `figures` gives for them.
    """

    method: str
    layer: str
    megabytes: float
    milliseconds: float
    images: int
    found: Mapping[str, Any]
    pictures: Sequence[NDArray[np.uint8]] = field(repr=False, default=())


@dataclass(frozen=True)
class LeftOut:
    """A method of which there is no file, and why."""

    method: str
    reason: str


def compare(
    methods: Iterable[str],
    write: Callable[[str, Path], object],
    folder: Path,
    annotations: Annotations,
    *,
    shown: Sequence[Path],
    seconds: float,
    faithful: bool,
) -> Iterator[Compared | LeftOut]:
    """Each method's file, which `write` puts at a path, on the images, for so many seconds at most.

    A file that is in the folder is not written again, nor are images run that its record has.
    `shown` are the images of which pictures are made.
    """
    for method in methods:
        path = folder / f"{method}.onnx"
        try:
            if not path.exists():
                write(method, path)
            yield compare_file(path, annotations, shown=shown, seconds=seconds, faithful=faithful)
        except CamcoreError as error:
            yield LeftOut(method, str(error))


def compare_file(
    path: Path,
    annotations: Annotations,
    *,
    shown: Sequence[Path],
    seconds: float,
    faithful: bool,
) -> Compared:
    """A file's costs, figures and pictures."""
    runner = load(path)
    stated = bool(annotations.categories)
    predict = predicting(runner, 0.0) if stated else None
    if faithful or predict is None:
        predict = judging(path, runner, predict)
    lines = path.with_suffix(".jsonl")
    done = record.done_images(lines, record.heading(path, None, {"faithfulness": faithful}))
    end = time.monotonic() + seconds
    # Image by image, for the time may be over behind each.
    for image in annotations.images:
        if image.name in done:
            continue
        if done and time.monotonic() > end:
            break
        quiet = Told(lambda count: None, lambda failed: None)
        keep(evaluated(runner, [image], predict, batch=1), lines, quiet)
        done.add(image.name)
    found = figures(annotations, lines, with_boxes=stated and runner.card.boxes is not None)
    first, _ = prepare(read_image(shown[0]), runner.card.image)
    return Compared(
        method=runner.card.method,
        layer=runner.card.layer,
        megabytes=path.stat().st_size / 1e6,
        milliseconds=milliseconds(lambda: runner(first)),
        images=found["images"],
        found=found,
        pictures=[picture(runner, image) for image in shown],
    )


def milliseconds(run: Callable[[], object]) -> float:
    """The median time of a few runs behind one that does not count; of a slow one it is that one.

    >>> milliseconds(lambda: time.sleep(0.01)) > 9
    True
    """
    spent: list[float] = []
    began = time.perf_counter()
    for number in range(_TIMED_RUNS + 1):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
        if time.perf_counter() - began > _TIMED_SECONDS and number:
            break
    return 1000 * median(spent[1:])


def picture(runner: Runner, path: Path) -> NDArray[np.uint8]:
    """A small picture of an image under the map of its best class."""
    image = read_image(path)
    array, placement = prepare(image, runner.card.image)
    found = runner(array)
    raw = found.saliency_map[0, 0]
    placed = placement.map_to_original(raw)
    return overlay.shrunk(overlay.heatmap(image, placed), PICTURE_WIDTH)


def readable(images: Sequence[AnnotatedImage], count: int) -> list[Path]:
    """The first of the images that can be read, so many at most."""
    found: list[Path] = []
    for image in images:
        if len(found) == count:
            break
        try:
            read_image(image.path)
        except CamcoreError:
            continue
        found.append(image.path)
    return found
