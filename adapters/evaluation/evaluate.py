"""Evaluate: the road of a data set through a file, image by image, and the figures at its end."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import stream
from camcore.adapters.evaluation import record
from camcore.adapters.evaluation.annotations import AnnotatedImage, Annotations
from camcore.adapters.evaluation.average_precision import Counted, average_precision
from camcore.adapters.evaluation.detections import predict_detections
from camcore.adapters.evaluation.faithfulness import MeanFaithfulness, check_card, faithfulness
from camcore.adapters.evaluation.localisation import Localisation
from camcore.adapters.evaluation.predict import check_file, checked, predict_batch
from camcore.adapters.evaluation.scorer import open_scorer
from camcore.adapters.runner import Device, Runner, load
from camcore.errors import InputError


@dataclass(frozen=True)
class Told:
    """What is told while images are evaluated: how many are done, and of which nothing came."""

    advance: Callable[[int], object]
    failed: Callable[[stream.Failed], object]


# What is made of a batch: a record for each image, without the errors' reasons.
Predict = Callable[[Sequence[stream.Prepared], Sequence[AnnotatedImage]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Measure:
    """What is to be measured; plain values, which other processes can be sent.

    `annotated` says whether there are annotations to compare with, `faithfulness` whether that is
    measured; `above` is the least probability of the classes whose boxes are predicted.
    """

    file: Path
    annotated: bool
    faithfulness: bool = False
    above: float = 0.0
    batch: int = 8
    device: Device = "cpu"
    threads: int | None = None


def open_measure(measure: Measure) -> tuple[Runner, Predict]:
    """The file, and what is made of a batch of images.

    Raises:
        FileError: the file is missing, damaged, was changed, or was not written by camcore.
        InputError: it cannot be measured so, or there is nothing to measure.
    """
    runner = load(measure.file, measure.device, threads=measure.threads)
    check_file(runner.card, measure.above)
    predict = predicting(runner, measure.above) if measure.annotated else None
    if measure.faithfulness:
        predict = judging(measure.file, runner, predict, measure.threads)
    if predict is None:
        raise InputError("nothing to measure: give --annotations, or --faithfulness, or both")
    return runner, predict


def evaluated(
    runner: Runner, images: Sequence[AnnotatedImage], predict: Predict, batch: int
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The record of each image and its path; it has an `error` where nothing else came."""
    prepared = stream.prepared_images([image.path for image in images], runner.card.image)
    for group, unread in stream.batches(prepared, 1 if runner.card.is_detector else batch):
        good, misfits = checked(group, images)
        for failed in [*unread, *misfits]:
            yield failed.path, {"image": images[failed.number].name, "error": failed.reason}
        entries = predict(good, [images[each.number] for each in good]) if good else []
        yield from zip([each.path for each in good], entries, strict=True)


def keep(found: Iterable[tuple[Path, dict[str, Any]]], path: Path, told: Told) -> int:
    """Add the records of images to that at `path`; how many of them failed."""
    failures = 0
    with record.appending(path) as write:
        for image, entry in found:
            write(entry)
            if "error" in entry:
                failures += 1
                told.failed(stream.Failed(0, image, entry["error"]))
            told.advance(1)
    return failures


def predicting(runner: Runner, above: float) -> Predict:
    """What is predicted of the classes, or found by a detector, above a probability."""
    predict = predict_detections if runner.card.is_detector else predict_batch
    return lambda batch, annotated: predict(runner, batch, annotated, above)


def judging(
    file: Path, runner: Runner, predict: Predict | None, threads: int | None = None
) -> Predict:
    """What `predict` says, if anything, and how faithful the map of the best class is.

    Raises:
        InputError: the file's maps cannot be judged so.
    """
    check_card(runner.card)
    scorer = open_scorer(file, runner, threads)

    def judge(
        batch: Sequence[stream.Prepared], annotated: Sequence[AnnotatedImage]
    ) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]]
        if predict is None:
            entries = [{"image": each.name, "predictions": [], "objects": []} for each in annotated]
        else:
            entries = predict(batch, annotated)
        for each, entry in zip(batch, entries, strict=True):
            if "error" not in entry:
                image = each.array[0]
                label = int(np.argmax(scorer(each.array)[0]))
                explain = partial(map_of, runner, label=label)
                # By its name, so that whoever goes on, or in another order, gets the same.
                rng = np.random.default_rng([*each.path.name.encode()])
                entry["faithfulness"] = faithfulness(
                    image, explain(image), label, scorer, explain, rng
                )
        return entries

    return judge


def map_of(runner: Runner, image: NDArray[np.float32], *, label: int) -> NDArray[np.float32]:
    """The map (H, W) of a class of one image (C, H, W)."""
    if runner.card.takes_ids:
        found: NDArray[np.float32] = runner(image[None], class_ids=label).saliency_map[0, 0]
    else:
        found = runner(image[None]).saliency_map[0, label]
    return found


def figures(annotations: Annotations, path: Path, *, with_boxes: bool) -> dict[str, Any]:
    """The figures of a record: `images`, `localisation`; `faithfulness` where that was measured,
    and `boxes` where the file finds some.
    """
    found, faithful, counted = Localisation(), MeanFaithfulness(), Counted()
    for entry in record.entries(path):
        for part in (found, faithful, counted):
            part.add(entry)
    boxes = None
    if with_boxes:
        boxes = average_precision(annotations, counted, partial(record.entries, path))
    return {
        "images": len(counted.images),
        "localisation": found.figures(),
        "faithfulness": faithful.figures(),
        "boxes": boxes,
    }
