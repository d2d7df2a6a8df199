"""Predict: what a file says of a batch of images, class by class, as a record of each image.

The maps of a few classes at a time are made, looked at and dropped, so that neither many classes
nor many images fill the memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import stream
from camcore.adapters.evaluation.annotations import AnnotatedImage
from camcore.adapters.evaluation.localisation import found_in_map
from camcore.adapters.runner import Explanation, Runner, class_probabilities, class_scores
from camcore.card import Card
from camcore.errors import InputError

# Whose maps are there at once, for each image of a batch.
_CLASSES_AT_ONCE = 16


def check_file(card: Card, above: float) -> None:
    """Raises an `InputError` of a file that cannot be evaluated, or not with that threshold.

    One that explains the best classes by itself is evaluated by its boxes alone.
    """
    if card.class_ids == "best" and card.boxes is None and not card.is_detector:
        raise InputError(
            "the file explains the best classes by itself, so that the maps of others that are "
            "there cannot be asked for, and finds no boxes; export the model with --boxes, or with "
            "--class-ids required or all"
        )
    if card.shares_map:
        raise InputError(
            "the file has one map of the image, which tells nothing of an object; export the "
            "detector with a method that explains each detection, as hirescam"
        )
    if card.further_inputs:
        raise InputError(f"the file takes {', '.join(card.further_inputs)} beside the image")
    if not 0 <= above <= 1:
        raise InputError(f"a probability above {above} was asked for; expected 0 to 1")


def predict_batch(
    runner: Runner,
    batch: Sequence[stream.Prepared],
    annotated: Sequence[AnnotatedImage],
    above: float,
) -> list[dict[str, Any]]:
    """The record of each image of a batch: what was predicted, and what was found of its objects.

    `predictions` are the classes that are at least as probable as `above`, 0 for all of them, with
    their boxes in the pixels of the image and the boxes' scores; `objects` are the classes that are
    there, with what `found_in_map` tells, none of a file that explains the best classes, which
    would leave out those that it does not see. An image on which the file fails has an `error`
    instead.

    Raises:
        InputError: the file gives no probabilities, and `above` is not 0.
    """
    image_of = {each.number: image for each, image in zip(batch, annotated, strict=True)}
    entries: dict[int, dict[str, Any]] = {
        number: {"image": image.name, "predictions": [], "objects": []}
        for number, image in image_of.items()
    }

    def explain(ids: list[int] | None) -> set[int]:
        """Adds what the file tells of some classes; gives those that are likely in any image."""
        wanted: set[int] = set()
        for result in stream.explained(
            lambda images, progress: runner(images, class_ids=ids), batch, None
        ):
            if isinstance(result, stream.Failed):
                entries[result.number]["error"] = result.reason
                continue
            likely = _likely(runner.card, result.explanation, above)
            wanted |= set(likely)
            _add(entries[result.number], result, image_of[result.number], likely, runner.card)
        return wanted

    if not runner.card.takes_ids:
        explain(None)
    else:
        # Which classes are likely is known once the scores are.
        present = sorted({label for image in annotated for label in image.present})
        left = sorted(explain(present or [-1]) - set(present))
        for start in range(0, len(left), _CLASSES_AT_ONCE):
            explain(left[start : start + _CLASSES_AT_ONCE])
    return list(entries.values())


def _likely(card: Card, explanation: Explanation[Any], above: float) -> dict[int, float | None]:
    """The classes of an image that are at least as probable as `above`, with the probability."""
    scores = class_scores(card, explanation)
    probabilities = None if scores is None else class_probabilities(card, scores)
    if probabilities is None:
        if above > 0:
            raise InputError(
                f"classes more probable than {above} were asked for, but the file gives no "
                "probabilities; export it with --probabilities, or take all classes: --above 0"
            )
        return dict.fromkeys(range(card.num_classes))
    return {
        int(label): round(float(probabilities[0, label]), 6)
        for label in np.flatnonzero(probabilities[0] >= above)
    }


def _add(
    entry: dict[str, Any],
    result: stream.Result,
    image: AnnotatedImage,
    likely: Mapping[int, float | None],
    card: Card,
) -> None:
    """Add to an image's record what a run of the file told of some classes."""
    explanation, placement = result.explanation, result.placement
    size = explanation.saliency_map.shape[2:]
    # The best class, where nothing was asked for, may be asked for again.
    known = {each["class"] for each in entry["predictions"]}
    for k, label in enumerate(explanation.classes[0].tolist()):
        if label in likely and label not in known and card.boxes is not None:
            boxes = placement.boxes_to_original(explanation.boxes[0, k], size)
            entry["predictions"].append(
                {
                    "class": label,
                    "probability": likely[label],
                    **_kept(boxes, explanation.box_scores[0, k]),
                }
            )
        if label in image.present and card.class_ids != "best":
            saliency_map = explanation.saliency_map[0, k]
            found = found_in_map(saliency_map, placement, image.boxes_of(label))
            entry["objects"].append({"class": label, **found})


def _kept(boxes: NDArray[Any], scores: NDArray[Any]) -> dict[str, Any]:
    """Boxes and scores without padding, and without what lies in the black margin of a crop."""
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return {
        "boxes": np.round(boxes[kept], 2).tolist(),
        "scores": np.round(scores[kept].astype(np.float64), 6).tolist(),
    }


def checked(
    batch: Iterable[stream.Prepared], images: Sequence[AnnotatedImage]
) -> tuple[list[stream.Prepared], list[stream.Failed]]:
    """The images of the size that the annotations state, and those of another."""
    good, bad = [], []
    for each in batch:
        stated, given = images[each.number].size, each.image.shape[:2]
        if stated is None or stated == given:
            good.append(each)
            continue
        reason = (
            f"the image is {given[0]} x {given[1]} (height x width), its annotations are for "
            f"{stated[0]} x {stated[1]}"
        )
        bad.append(stream.Failed(each.number, each.path, reason))
    return good, bad
