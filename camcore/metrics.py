"""Metrics: does a map point at the object?

Boxes are (..., 4) as x1, y1, x2, y2 in pixels, half-open: a box holds the pixels
x1 <= x < x2, y1 <= y < y2. Maps are (..., H, W), floating point. Leading axes broadcast: several
boxes of one image are maps (B, 1, H, W) with boxes (B, M, 4). Other arrays and shapes raise
`InputError`.
"""

from typing import Any

from array_api_compat import device

from camcore._arrays import Array, add_space, broadcasts, cast, check_maps, namespace, show
from camcore.errors import InputError


def pointing_game(maps: Array, boxes: Array, /) -> Array:
    """Whether each map's highest pixel lies in the box, bool (...).

    Of equal pixels the first in reading order counts. A constant map points nowhere, nor does one
    that holds a NaN.

    Source: Zhang et al. 2016, https://arxiv.org/abs/1608.00507, without its tolerance of 15 pixels.

    >>> import numpy as np
    >>> saliency_map = np.asarray([[0.0, 0.2], [0.1, 1.0]])
    >>> bool(pointing_game(saliency_map, np.asarray([1, 0, 2, 2])))
    True
    """
    xp = namespace(maps, boxes)
    _check_floating(xp, maps)
    _check_boxes(xp, boxes)
    if not broadcasts(maps.shape[:-2], boxes.shape[:-1]):
        raise InputError(
            "expected maps (..., H, W) and boxes (..., 4) whose leading axes broadcast, got "
            f"{show(maps.shape)} and {show(boxes.shape)}"
        )
    width = maps.shape[-1]
    flat = xp.reshape(maps, (*maps.shape[:-2], maps.shape[-2] * width))
    peak = xp.argmax(flat, axis=-1)
    # The middle of the pixel, so that boxes with fractions are treated alike on all sides.
    x = cast(xp, peak % width, xp.float32) + 0.5
    y = cast(xp, peak // width, xp.float32) + 0.5
    boxes = _as_floating(xp, boxes)
    inside = (boxes[..., 0] <= x) & (x < boxes[..., 2]) & (boxes[..., 1] <= y) & (y < boxes[..., 3])
    return inside & (xp.max(flat, axis=-1) > xp.min(flat, axis=-1))


def threshold_box(maps: Array, threshold: float | Array, /) -> Array:
    """The smallest box around all pixels above the threshold, int64 (..., 4); zeros for none.

    `threshold` is in the maps' unit, one number or an array (...) with one for each map.

    Source: Zhou et al. 2016, https://arxiv.org/abs/1512.04150, with all regions in place of the
    largest one.

    >>> import numpy as np
    >>> threshold_box(np.asarray([[0.0, 0.2, 0.9], [0.1, 0.3, 0.8]]), 0.25)
    array([1, 0, 3, 2])
    """
    xp = namespace(maps)
    _check_floating(xp, maps)
    if not isinstance(threshold, float | int):
        namespace(maps, threshold)
        if not broadcasts(maps.shape[:-2], threshold.shape):
            raise InputError(
                "expected maps (..., H, W) and thresholds (...) whose leading axes broadcast, got "
                f"{show(maps.shape)} and {show(threshold.shape)}"
            )
        threshold = add_space(threshold, spatial_ndim=2)
    above = maps > threshold
    x1, x2 = _extent(xp, xp.any(above, axis=-2))
    y1, y2 = _extent(xp, xp.any(above, axis=-1))
    return xp.stack([x1, y1, x2, y2], axis=-1)


def box_iou(a: Array, b: Array, /) -> Array:
    """Intersection over union of boxes (..., 4), in [0, 1], (...); 0 where both are empty.

    >>> import numpy as np
    >>> box_iou(np.asarray([0, 0, 2, 2]), np.asarray([[0, 0, 2, 2], [0, 1, 2, 3]])).round(3)
    array([1.   , 0.333], dtype=float32)
    """
    xp = namespace(a, b)
    _check_boxes(xp, a)
    _check_boxes(xp, b)
    if not broadcasts(a.shape[:-1], b.shape[:-1]):
        raise InputError(
            "expected boxes (..., 4) whose leading axes broadcast, got "
            f"{show(a.shape)} and {show(b.shape)}"
        )
    a, b = _as_floating(xp, a), _as_floating(xp, b)
    top_left = xp.maximum(a[..., :2], b[..., :2])
    bottom_right = xp.minimum(a[..., 2:], b[..., 2:])
    intersection = _area(xp, top_left, bottom_right)
    union = _area(xp, a[..., :2], a[..., 2:]) + _area(xp, b[..., :2], b[..., 2:]) - intersection
    return intersection / xp.where(union == 0, 1.0, union)


def _extent(xp: Any, occupied: Array) -> tuple[Array, Array]:
    """Start and end of the true entries of (..., L), both 0 where there are none."""
    length = occupied.shape[-1]
    occupied = cast(xp, occupied, xp.int64)
    index = xp.arange(length, dtype=xp.int64, device=device(occupied))
    end = xp.max(occupied * (index + 1), axis=-1)
    start = length - xp.max(occupied * (length - index), axis=-1)
    return xp.minimum(start, end), end


def _area(xp: Any, top_left: Array, bottom_right: Array) -> Array:
    sides = xp.clip(bottom_right - top_left, min=0)
    return sides[..., 0] * sides[..., 1]


def _as_floating(xp: Any, boxes: Array) -> Array:
    """At least float32, which counts pixels exactly up to sixteen million."""
    wide = boxes.dtype == xp.float64
    return boxes if wide else cast(xp, boxes, xp.float32)


def _check_floating(xp: Any, maps: Array) -> None:
    if not xp.isdtype(maps.dtype, "real floating"):
        raise InputError(
            f"expected floating-point maps, got {maps.dtype}; convert with astype first"
        )
    check_maps(maps, spatial_ndim=2)


def _check_boxes(xp: Any, boxes: Array) -> None:
    if (
        boxes.ndim < 1
        or boxes.shape[-1] != 4
        or not xp.isdtype(boxes.dtype, ("integral", "real floating"))
    ):
        raise InputError(
            "expected boxes (..., 4) as numbers x1, y1, x2, y2, got "
            f"{show(boxes.shape)} of {boxes.dtype}"
        )
