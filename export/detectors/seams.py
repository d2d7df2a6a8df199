"""Seams: functions of torchvision that no export passes, swapped while a detector is traced.

They ask how many boxes there are, or how large, which a graph cannot know. What takes their place
computes the same without asking; a detector that runs in another thread meanwhile gives what it
always gave.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import roi_heads, transform
from torchvision.ops import boxes, poolers, roi_align

from camcore.export.detectors.geometry import Frame, Size, over_regions
from camcore.export.detectors.keypoints import find_keypoints
from camcore.export.detectors.resizing import pad_image, resize_image


@contextmanager
def without_counting(any_size: bool = False) -> Iterator[None]:
    """While it lasts, no box is counted in this thread; then torchvision's own functions are back.

    With `any_size` no pixel of the image is counted either.
    """
    resized: list[Size] = []

    def pad(own: Any, images: Sequence[Tensor], size_divisible: int = 32) -> Tensor:
        _, height, width = images[0].shape
        resized.append((height, width))
        if any_size:
            return pad_image(images, size_divisible)
        return own_functions[_PAD](own, images, size_divisible)  # type: ignore[no-any-return]

    def places(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        return find_keypoints(maps, rois, resized[-1])

    stand_ins: dict[Any, Callable[..., Any]] = {
        (boxes, "batched_nms"): _batched_nms,
        (poolers, "_multiscale_roi_align"): _multiscale_roi_align,
        (transform, "paste_masks_in_image"): _paste_masks_in_image,
        (roi_heads, "heatmaps_to_keypoints"): places,
        _PAD: pad,
    }
    if any_size:
        stand_ins[transform, "_resize_image_and_masks"] = resize_image
    own_functions = {(owner, name): getattr(owner, name) for owner, name in stand_ins}
    try:
        for (owner, name), function in stand_ins.items():
            setattr(owner, name, _in_this_thread(function, own_functions[owner, name]))
        with unwarned():
            yield
    finally:
        for (owner, name), function in own_functions.items():
            setattr(owner, name, function)


_PAD = (transform.GeneralizedRCNNTransform, "batch_images")


def _in_this_thread(
    function: Callable[..., Any], elsewhere: Callable[..., Any]
) -> Callable[..., Any]:
    """A function that another one is called for in other threads."""
    own = threading.get_ident()

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return (function if threading.get_ident() == own else elsewhere)(*args, **kwargs)

    return called


@contextmanager
def unwarned() -> Iterator[None]:
    """While it lasts, PyTorch does not warn of how torchvision tells it what is not known yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*create_unbacked_symint.* is deprecated")
        yield


def _batched_nms(found: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Of each class alone: boxes of different classes are moved so far apart that none overlaps."""
    # The zero keeps the largest coordinate defined where nothing was found.
    far = torch.cat([found.flatten(), found.new_zeros(1)]).max() + 1
    moved = found + (idxs.to(found) * far)[:, None]
    kept: Tensor = torch.ops.torchvision.nms(moved, scores, iou_threshold)
    return kept


def _paste_masks_in_image(
    masks: Tensor, found: Tensor, img_shape: tuple[int, int], padding: int = 1
) -> Tensor:
    """Masks (D, 1, m, m) in the image, (D, 1, H, W), each over whole pixels of its box."""
    masks, scale = roi_heads.expand_masks(masks, padding=padding)
    corners = roi_heads.expand_boxes(found, scale).to(torch.int64)
    low, sizes = corners[:, :2], (corners[:, 2:] - corners[:, :2] + 1).clamp(min=1)
    covered = torch.cat([low, low + sizes], dim=1).to(masks.dtype)
    return over_regions(masks[:, 0], covered, Frame(img_shape, img_shape, img_shape))[:, None]


def _multiscale_roi_align(
    x_filtered: Sequence[Tensor],
    boxes: list[Tensor],
    output_size: Any,
    sampling_ratio: int,
    scales: Sequence[float] | None,
    mapper: Callable[[list[Tensor]], Tensor] | None,
) -> Tensor:
    """Of each level those regions that belong to it, put back in order by where they came from."""
    assert scales is not None
    assert mapper is not None
    regions = poolers._convert_to_roi_format(boxes)
    how: dict[str, Any] = {"output_size": output_size, "sampling_ratio": sampling_ratio}
    if len(x_filtered) == 1:
        whole: Tensor = roi_align(x_filtered[0], regions, spatial_scale=scales[0], **how)
        return whole
    levels = mapper(boxes)
    pooled, places = [], []
    for level, (feature, scale) in enumerate(zip(x_filtered, scales, strict=True)):
        place = torch.where(levels == level)[0]
        pooled.append(roi_align(feature, regions[place], spatial_scale=scale, **how))
        places.append(place)
    return torch.cat(pooled).index_select(0, torch.argsort(torch.cat(places)))
