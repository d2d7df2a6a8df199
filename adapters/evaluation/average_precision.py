"""Average precision of predicted boxes, as COCO has it, by faster-coco-eval.

It is computed for some classes at a time, for the library holds all their boxes at once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.evaluation.annotations import Annotations

# A prediction is some hundred bytes in a record and a kilobyte in the library.
_MOST_AT_ONCE = 200_000


@dataclass
class Counted:
    """The images of a record, and how many boxes of each class are predicted in them."""

    images: set[str] = field(default_factory=set)
    boxes: Counter[int] = field(default_factory=Counter)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add an image, as `predict_batch` gives it."""
        self.images.add(entry["image"])
        for each in entry["predictions"]:
            self.boxes[each["class"]] += len(each["boxes"])


def average_precision(
    annotations: Annotations,
    counted: Counted,
    entries: Callable[[], Iterable[Mapping[str, Any]]],
    *,
    most_at_once: int = _MOST_AT_ONCE,
) -> dict[str, Any]:
    """COCO's figures for the images of a record that was counted, which `entries` reads anew for
    each group of classes.

    `mAP` is the mean over IoUs from 0.5 to 0.95 and over classes; None where none is in the images.
    `classes` has the same for each class.

    Source: https://cocodataset.org/#detection-eval
    """
    counts = [counted.boxes[label] for label in range(len(annotations.categories))]
    images = [image for image in annotations.images if image.name in counted.images]
    number_of = {image.name: number for number, image in enumerate(images, start=1)}
    precisions, recalls = [], []
    for group in _groups(counts, most_at_once):
        truth = _truth(images, annotations.categories, set(group))
        found = _found(entries(), number_of, set(group))
        precision, recall = _evaluated(truth, found, group)
        precisions.append(precision)
        recalls.append(recall)
    # Thresholds, recalls, classes, areas, numbers of boxes; and the same without the recalls.
    precision, recall = np.concatenate(precisions, axis=2), np.concatenate(recalls, axis=1)
    all_areas = precision[..., 0, -1]
    return {
        "mAP": _mean(all_areas),
        "mAP50": _mean(all_areas[0]),
        "mAP75": _mean(all_areas[5]),
        "mAP_small": _mean(precision[..., 1, -1]),
        "mAP_medium": _mean(precision[..., 2, -1]),
        "mAP_large": _mean(precision[..., 3, -1]),
        "recall_100": _mean(recall[..., 0, -1]),
        "classes": {
            name: _mean(all_areas[:, :, label]) for label, name in enumerate(annotations.categories)
        },
    }


def _groups(counts: Sequence[int], most: int) -> list[list[int]]:
    """Classes in a row whose predictions together are no more than so many, or one alone."""
    groups: list[list[int]] = [[]]
    held = 0
    for label, count in enumerate(counts):
        if groups[-1] and held + count > most:
            groups.append([])
            held = 0
        groups[-1].append(label)
        held += count
    return groups


def _truth(images: Sequence[Any], categories: Sequence[str], group: set[int]) -> dict[str, Any]:
    objects: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        for (x1, y1, x2, y2), label, ignored in zip(
            image.boxes.tolist(), image.labels.tolist(), image.ignored.tolist(), strict=True
        ):
            if label in group:
                width, height = x2 - x1, y2 - y1
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": number,
                        "category_id": label,
                        "bbox": [x1, y1, width, height],
                        "area": width * height,
                        "iscrowd": int(ignored),
                    }
                )
    return {
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "annotations": objects,
        "categories": [{"id": label, "name": categories[label]} for label in sorted(group)],
    }


def _found(
    entries: Iterable[Mapping[str, Any]], number_of: Mapping[str, int], group: set[int]
) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number_of[entry["image"]],
            "category_id": each["class"],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for entry in entries
        for each in entry["predictions"]
        if each["class"] in group
        for (x1, y1, x2, y2), score in zip(each["boxes"], each["scores"], strict=True)
    ]


def _evaluated(
    truth: dict[str, Any], found: list[dict[str, Any]], group: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from faster_coco_eval import COCO, COCOeval_faster

    expected = COCO(truth)
    evaluation = COCOeval_faster(expected, expected.loadRes(found), iouType="bbox")
    evaluation.params.catIds = list(group)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of what is known; -1 stands for what is not."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
