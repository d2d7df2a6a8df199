"""Readings: how the output of a detector that returns all its candidates becomes detections.

A reading is a function of the model's output, for one image, and of the image (1, C, H, W). It
returns `boxes` (D, 4) as x1, y1, x2, y2 in the image's pixels, `labels` (D,) int64 and `scores`
(D,), highest first. What it does to the scores must be gathers, as sorting and picking are, and
operators that take numbers one by one: so each is followed to the number that it stems from.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import boxes as box_operators

from camcore.errors import InputError, unknown_name

Detections = tuple[Tensor, Tensor, Tensor]
Reading = Callable[[Any, Tensor], Detections]


def yolo(
    output: Any, image: Tensor, *, score: float = 0.25, iou: float = 0.7, most: int = 300
) -> Detections:
    """Of a tensor (1, 4 + N, A), or of the first in a tuple, as Ultralytics' YOLOv8 and YOLO11
    return it: centre, width, height in pixels and N class probabilities of each of A anchors.

    Candidates with a probability above `score` go through non-maximum suppression, each class
    alone, at an overlap of `iou`; at most `most` are left.
    """
    found = output[0] if isinstance(output, tuple | list) else output
    places, probabilities = found[0, :4], found[0, 4:]
    best, labels = probabilities.max(dim=0)
    chosen = torch.where(best > score)[0]
    scores, labels = best[chosen], labels[chosen]
    centre, size = places[:2, chosen], places[2:, chosen]
    corners = torch.cat([centre - size / 2, centre + size / 2]).transpose(0, 1)
    # By its module, where another stands while a detector is traced.
    kept = box_operators.batched_nms(corners, scores, labels, iou)[:most]
    return corners[kept], labels[kept], scores[kept]


def detr(output: Any, image: Tensor, *, score: float = 0.5) -> Detections:
    """Of `logits` (1, Q, N + 1), the last of which stands for no object, and `pred_boxes`
    (1, Q, 4), centre, width, height as shares of the image, as DETR and YOLOS return them.

    Each query is one candidate, and those with a probability above `score` are detections.
    """
    probabilities = output["logits"][0].softmax(-1)[:, :-1]
    best, labels = probabilities.max(dim=-1)
    return _of_queries(output, image, best, labels, score)


def rt_detr(output: Any, image: Tensor, *, score: float = 0.5) -> Detections:
    """As `detr`, of `logits` (1, Q, N) with a sigmoid each and none for no object."""
    best, labels = output["logits"][0].sigmoid().max(dim=-1)
    return _of_queries(output, image, best, labels, score)


def _of_queries(
    output: Any, image: Tensor, best: Tensor, labels: Tensor, score: float
) -> Detections:
    height, width = image.shape[2:]
    best, order = best.topk(best.shape[0])
    labels, places = labels[order], output["pred_boxes"][0, order]
    chosen = torch.where(best > score)[0]
    centre, size = places[chosen, :2], places[chosen, 2:]
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    return corners * corners.new_tensor([width, height] * 2), labels[chosen], best[chosen]


READINGS: Mapping[str, Reading] = {"yolo": yolo, "detr": detr, "rt-detr": rt_detr}


def get_reading(given: str | Reading | None) -> Reading | None:
    """A reading by its name, or as it is.

    Raises:
        InputError: no such reading.
    """
    if isinstance(given, str):
        if given not in READINGS:
            raise unknown_name("reading of detections", given, READINGS)
        return READINGS[given]
    if given is not None and not callable(given):
        raise InputError(
            f"detections={given!r}: expected {', '.join(READINGS)}, or a function of the model's "
            "output and the image that returns boxes (D, 4), labels (D,) and scores (D,)"
        )
    return given
