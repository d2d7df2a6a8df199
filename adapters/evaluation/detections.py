"""Detections: what a detector finds in images, and where the map of each detection points."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import stream
from camcore.adapters.evaluation.annotations import AnnotatedImage
from camcore.adapters.evaluation.localisation import GOOD_IOU, found_in_map
from camcore.adapters.runner import Runner
from camcore.metrics import box_iou


def predict_detections(
    runner: Runner,
    batch: Sequence[stream.Prepared],
    annotated: Sequence[AnnotatedImage],
    above: float,
) -> list[dict[str, Any]]:
    """The record of each image of a batch, as `predict_batch` makes it for classes.

    `predictions` are the detections with a score of at least `above`, label by label; `objects` are
    those objects that one with a map found, with what `found_in_map` tells of that map and box.
    """
    image_of = {each.number: image for each, image in zip(batch, annotated, strict=True)}
    entries: dict[int, dict[str, Any]] = {}
    for result in stream.explained(lambda images, progress: runner(images), batch, None):
        image = image_of[result.number]
        entry = entries[result.number] = {"image": image.name, "predictions": [], "objects": []}
        if isinstance(result, stream.Failed):
            entry["error"] = result.reason
            continue
        found, maps = result.explanation, result.explanation["detection_maps"]
        kept = found.scores >= above
        labels, scores = found["labels"][kept], found.scores[kept]
        boxes = result.placement.boxes_to_original(found.boxes, maps.shape[1:])[kept]
        for label in np.unique(labels):
            own = labels == label
            entry["predictions"].append(
                {
                    "class": int(label),
                    "boxes": np.round(boxes[own], 2).tolist(),
                    "scores": np.round(scores[own].astype(np.float64), 6).tolist(),
                }
            )
        explained = len(maps[kept[: len(maps)]])
        for place, box in _matches(boxes[:explained], labels[:explained], image):
            told = found_in_map(maps[kept[: len(maps)]][place], result.placement, box[None])
            entry["objects"].append({"class": int(labels[place]), **told})
    return [entries[each.number] for each in batch]


def _matches(
    boxes: NDArray[Any], labels: NDArray[Any], image: AnnotatedImage
) -> list[tuple[int, NDArray[np.float64]]]:
    """Detections, the most certain first, each with the box of the object that it found."""
    found = []
    left = {label: list(image.boxes_of(label)) for label in image.present}
    for place, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
        candidates = left.get(label, [])
        overlaps = [float(box_iou(box[None], each[None])[0]) for each in candidates]
        if overlaps and max(overlaps) >= GOOD_IOU:
            found.append((place, candidates.pop(int(np.argmax(overlaps)))))
    return found
