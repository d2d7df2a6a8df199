"""Evaluate: the road of a data set through a file, image by image, and the figures at its end."""

from collections.abc import Callable, Sequence
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
from camcore.adapters.evaluation.predict import checked, predict_batch
from camcore.adapters.evaluation.scorer import open_scorer
from camcore.adapters.runner import Runner


@dataclass(frozen=True)
class Told:
    """What is told while images are evaluated: how many are done, and of which nothing came."""

    advance: Callable[[int], object]
    failed: Callable[[stream.Failed], object]


# What is made of a batch: a record for each image, without the errors' reasons.
Predict = Callable[[Sequence[stream.Prepared], Sequence[AnnotatedImage]], list[dict[str, Any]]]


def evaluate_images(
    runner: Runner,
    images: Sequence[AnnotatedImage],
    path: Path,
    done: set[str],
    predict: Predict,
    *,
    batch: int,
    told: Told,
) -> int:
    """Add each image that is not done to the record at `path`; how many of them failed."""
    left = [image for image in images if image.name not in done]
    told.advance(len(images) - len(left))
    failures = 0
    with record.appending(path) as write:
        prepared = stream.prepared_images([image.path for image in left], runner.card.image)
        for group, unread in stream.batches(prepared, batch):
            good, misfits = checked(group, left)
            for failed in [*unread, *misfits]:
                failures += 1
                write({"image": left[failed.number].name, "error": failed.reason})
                told.failed(failed)
            entries = predict(good, [left[each.number] for each in good]) if good else []
            for each, entry in zip(good, entries, strict=True):
                write(entry)
                if "error" in entry:
                    failures += 1
                    told.failed(stream.Failed(each.number, each.path, entry["error"]))
            told.advance(len(group) + len(unread))
    return failures


def predicting(runner: Runner, above: float) -> Predict:
    """What is predicted of the classes, or found by a detector, above a probability."""
    predict = predict_detections if runner.card.is_detector else predict_batch
    return lambda batch, annotated: predict(runner, batch, annotated, above)


def judging(file: Path, runner: Runner, predict: Predict | None) -> Predict:
    """What `predict` says, if anything, and how faithful the map of the best class is.

    Raises:
        InputError: the file's maps cannot be judged so.
    """
    check_card(runner.card)
    scorer = open_scorer(file, runner)

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
