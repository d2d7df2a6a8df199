"""Matches: how much of what a detector found in an image it finds in a changed one.

What a detector finds there may be anything, so scores are not compared one by one: each detection
looks for itself among the new ones, and is worth how well it is met.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from camcore.export.trace.targets import Target
from camcore.metrics import box_iou

# What is explained of detections: each by itself, or all of them together.
MATCHES: Mapping[str, Target] = {name: Target(name) for name in ("match", "matches")}

# Less than half of two boxes in common is another object.
LEAST_OVERLAP = 0.5


def first_detections(found: Sequence[Tensor], most: int) -> tuple[Tensor, Tensor]:
    """Boxes (M, 4) and labels (M,) of the first detections, padded with a label of -2."""
    boxes, labels, *_ = found
    return (
        F.pad(boxes, (0, 0, 0, most)).narrow(0, 0, most),
        F.pad(labels, (0, most), value=-2).narrow(0, 0, most),
    )


def match(boxes: Tensor, labels: Tensor, found: Sequence[Tensor]) -> Tensor:
    """How well each of M detections is met by those that were `found`, (M,).

    Of the new ones with its label the one that overlaps it the most counts, with its overlap
    (intersection over union) and its score, if the overlap is above `LEAST_OVERLAP`; else 0.

    Source: pytorch-grad-cam's `FasterRCNNBoxScoreTarget`, where another label's box that overlaps
    more leaves 0
    """
    # One more, as nothing may have been found.
    new_boxes = F.pad(found[0], (0, 0, 0, 1))
    new_labels, scores = F.pad(found[1], (0, 1), value=-1), F.pad(found[2], (0, 1))
    same = labels[:, None] == new_labels
    overlaps = torch.where(same, box_iou(boxes[:, None], new_boxes), 0.0)
    overlap, place = overlaps.max(dim=1)
    return torch.where(overlap > LEAST_OVERLAP, overlap + scores.index_select(0, place), 0.0)
