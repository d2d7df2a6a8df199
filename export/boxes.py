"""Boxes: what a file adds to its maps where boxes are asked for."""

from collections.abc import Callable

import torch
from torch import Tensor

from camcore.boxes import box_scores, component_boxes, threshold_masks
from camcore.errors import InputError
from camcore.export.request import Request
from camcore.scaling import normalize
from camcore.targets import probability

# The names of the outputs that stand behind the maps.
PORTS = ("boxes", "box_scores")

# From scores (B, N) to how likely each class is to be there, (B, N).
CONFIDENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": probability,
    "sigmoid": torch.sigmoid,
    "none": torch.ones_like,
}


def find_boxes(
    request: Request, maps: Tensor, classes: Tensor, ranking: Tensor
) -> tuple[Tensor, ...]:
    """Boxes (B, K, M, 4) and their scores (B, K, M) on maps (B, K, H, W) of classes (B, K).

    Nothing where none are asked for. `ranking` (B, N) are the scores by which classes are ranked. A
    class of -1 is none, and its map empty.
    """
    if request.boxes is None:
        return ()
    maps = maps if request.normalize else normalize(maps)
    boxes = component_boxes(threshold_masks(maps), count=request.boxes.most).to(torch.float32)
    likely = CONFIDENCES[request.boxes.confidence](ranking.to(torch.float32))
    likely = likely.gather(1, classes.clamp(min=0))
    return boxes, box_scores(maps.to(torch.float32), boxes, likely)


def check_boxes(request: Request) -> None:
    """Raises an `InputError` for boxes that cannot be had."""
    if request.boxes is None:
        return
    most, confidence = request.boxes
    if most < 1:
        raise InputError(f"expected boxes to be the most that each map may have, got {most}")
    if confidence not in CONFIDENCES:
        raise InputError(
            f"expected box_confidence to be one of {', '.join(CONFIDENCES)}, got {confidence!r}"
        )
    if request.spatial_ndim != 2:
        raise InputError(
            "boxes are found on maps of images (B, C, H, W), the example is of shape "
            f"{tuple(request.inputs[0].shape)}: leave out boxes"
        )
    if not request.full_size:
        raise InputError(
            "boxes are in pixels of the image: leave out full_size=False (--map-size feature), or "
            "leave out boxes"
        )
