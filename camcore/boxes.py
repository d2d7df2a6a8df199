"""Boxes: from a map to the boxes of what it shows, and their scores.

Maps are (..., H, W), floating point, masks are (..., H, W), boolean, of any array API library;
other arrays and shapes raise `InputError`. Boxes are (..., M, 4) as x1, y1, x2, y2 in pixels,
half-open: a box holds the pixels x1 <= x < x2, y1 <= y < y2, so that x2 - x1 and y2 - y1 are the
width and height that OpenCV's `boundingRect` gives. Where there are fewer than M, the last ones are
-1 throughout.

Source: Zhou et al. 2016, https://arxiv.org/abs/1512.04150, with Otsu's threshold in place of a
fifth of the maximum, and every region in place of the largest one.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

from array_api_compat import device, is_torch_namespace

from camcore._arrays import (
    Array,
    add_space,
    agree,
    broadcasts,
    cast,
    check_maps,
    divide,
    divide_whole,
    floating_kernel,
    namespace,
    show,
    working_dtype,
)
from camcore._loops import repeat_until_still
from camcore._segments import count_at, least_at, take_at
from camcore.errors import InputError
from camcore.scaling import NORMALIZE_EPS, normalize

Connectivity = Literal[4, 8]
Threshold = float | Literal["otsu"]

LEVELS = 256  # of a map as a grey image


def otsu_threshold(maps: Array, /) -> Array:
    """Otsu's threshold of each map in [0, 1] as a grey image of 256 levels, int64 (...).

    The pixels above it are those where floor(255 map) is larger. It is the level that sets the
    two classes of pixels farthest apart: the largest variance between them, and the lowest level of
    several. A constant map has the threshold 0, and one that holds a NaN is black there.

    Source: Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076; `cv2.threshold` with `THRESH_OTSU`
    of `np.uint8(255 * map)`, which may take another of several levels that are equally good.

    >>> import numpy as np
    >>> otsu_threshold(np.asarray([[0.0, 0.1, 0.9], [0.1, 1.0, 0.8]]))
    array(25)
    """
    xp = _check_maps(maps)
    return xp.reshape(_otsu(_rows(_grey(maps))), maps.shape[:-2])


def threshold_masks(maps: Array, threshold: Threshold | Sequence[float] = "otsu", /) -> Array:
    """The pixels of each map above a threshold, bool (..., H, W).

    `otsu` is Otsu's, for maps in [0, 1]. A number is a fraction of the map's maximum, whatever its
    unit. Of several numbers there is a mask for each, (..., L, H, W). No pixel of a map without
    positive values is above a fraction of its maximum.

    >>> import numpy as np
    >>> threshold_masks(np.asarray([[0.0, 0.1, 0.9], [0.1, 1.0, 0.8]]))
    array([[False, False,  True],
           [False,  True,  True]])
    >>> threshold_masks(np.asarray([[0.0, 0.1, 0.9]]), (0.05, 0.5))
    array([[[False,  True,  True]],
    <BLANKLINE>
           [[False, False,  True]]])
    """
    xp = _check_maps(maps)
    if threshold == "otsu":
        grey = _grey(maps)
        return grey > add_space(xp.reshape(_otsu(_rows(grey)), maps.shape[:-2]), spatial_ndim=2)
    _check_fractions(threshold)
    highest = xp.max(maps, axis=(-2, -1), keepdims=True)
    # What is not positive is above no fraction of a maximum that is not.
    positive = maps > 0
    if isinstance(threshold, float | int):
        return (maps > threshold * highest) & positive
    masks = [(maps > fraction * highest) & positive for fraction in threshold]
    return xp.stack(masks, axis=-3)


def label_components(masks: Array, /, *, connectivity: Connectivity = 8) -> Array:
    """The number of the component that each pixel belongs to, int64 (..., H, W); 0 outside of all.

    Pixels of a mask belong together if a path of neighbours leads from one to the other, of eight
    neighbours, or four. Components are numbered from 1, by their first pixels in reading order.

    The labels of neighbours are taken over and followed to where they come from, so that the number
    of rounds grows with the logarithm of the longest way: a spiral of 224 x 224 takes five.

    Source: FastSV, Zhang, Azad and Hu 2020, https://arxiv.org/abs/1910.05971; equal to
    `skimage.measure.label`, and to `cv2.connectedComponents` but for the order.

    >>> import numpy as np
    >>> label_components(np.asarray([[True, False, True], [False, True, False]]))
    array([[1, 0, 1],
           [0, 1, 0]])
    """
    xp = _check_masks(masks)
    stacked = _stacked(masks)
    first = _first_pixels(stacked, connectivity)
    pixels = xp.arange(first.shape[1], dtype=xp.int64, device=device(masks))
    inside = xp.reshape(stacked, first.shape)
    number = xp.cumulative_sum(cast(xp, (first == pixels) & inside, xp.int64), axis=-1)
    labels = xp.where(inside, take_at(number, first), 0)
    return xp.reshape(labels, masks.shape)


def largest_component(masks: Array, /) -> Array:
    """The largest component of each mask alone, bool (..., H, W), of 8 neighbours.

    Of equal ones it is that whose first pixel comes first in reading order.

    >>> import numpy as np
    >>> largest_component(np.asarray([[True, False, True, True]]))
    array([[False, False,  True,  True]])
    """
    xp = _check_masks(masks)
    stacked = _stacked(masks)
    first = _first_pixels(stacked, 8)
    inside = xp.reshape(stacked, first.shape)
    areas = count_at(xp.where(inside, first, first.shape[1]), first.shape[1])
    _, largest = _by_area(areas, 1)
    return xp.reshape(inside & (first == largest), masks.shape)


def component_boxes(masks: Array, /, *, count: int, external: bool = False) -> Array:
    """The boxes of the `count` largest components of each mask, int64 (..., count, 4).

    They are ordered by the number of their pixels, largest first; of equal ones, that whose first
    pixel comes first in reading order. Components have 8 neighbours. By default each has its box,
    as in `cv2.connectedComponentsWithStats`. With `external`, those that lie in a hole of another
    have none, as in `cv2.findContours` with `RETR_EXTERNAL`, at twice the cost.

    >>> import numpy as np
    >>> component_boxes(np.asarray([[True, False, True, True]]), count=3)
    array([[ 2,  0,  4,  1],
           [ 0,  0,  1,  1],
           [-1, -1, -1, -1]])
    """
    xp = _check_masks(masks)
    if count < 1:
        raise InputError(f"expected a count of boxes of at least 1, got {count}")
    stacked = _stacked(masks)
    height, width = stacked.shape[-2:]
    first = _first_pixels(stacked, 8)
    size = first.shape[1]
    areas = count_at(xp.where(xp.reshape(stacked, first.shape), first, size), size)
    if external:
        areas = xp.where(_is_external(stacked, first), areas, 0)
    areas, chosen = _by_area(areas, count)
    y, x = _coordinates(masks)

    def least(values: Array) -> Array:
        """Of values (H, W), or (H, 1), or (W,), at the pixels of each chosen component."""
        values = xp.broadcast_to(values, stacked.shape)
        values = xp.reshape(values, first.shape)
        return take_at(least_at(values, first, values, bound=size), chosen)

    # A component's first pixel in reading order is one of its topmost.
    x1, y1 = least(x), chosen // width
    x2, y2 = width - least(width - 1 - x), height - least(height - 1 - y[:, None])
    boxes = xp.where(areas[..., None] > 0, xp.stack([x1, y1, x2, y2], axis=-1), -1)
    return xp.reshape(boxes, (*masks.shape[:-2], count, 4))


def box_scores(maps: Array, boxes: Array, probabilities: Array | None = None, /) -> Array:
    """How sure each of the boxes (..., M, 4) is, (..., M): the mean of the map (..., H, W) in it.

    Times the probability (...) of the map's class, where that is given. Boxes of no pixel, padding
    among them, have the score 0.

    >>> import numpy as np
    >>> saliency_map = np.asarray([[0.0, 0.2, 0.9], [0.0, 1.0, 0.7]])
    >>> box_scores(saliency_map, np.asarray([[1, 0, 3, 2], [-1, -1, -1, -1]]), np.asarray(0.5))
    array([0.35, 0.  ])
    """
    rows, columns = _sides(maps, boxes)
    means = _means(maps, rows=rows, columns=columns)
    return means if probabilities is None else _products(means, probabilities[..., None])


def renormalize_in_boxes(maps: Array, boxes: Array, /, *, eps: float = NORMALIZE_EPS) -> Array:
    """Each map (..., H, W) stretched to [0, 1] in each of its boxes (..., M, 4), and 0 outside.

    Where boxes overlap, the largest value counts; the whole is stretched once more.

    Source: pytorch-grad-cam's tutorial of object detection, `renormalize_cam_in_bounding_boxes`

    >>> import numpy as np
    >>> saliency_map = np.asarray([[0.0, 0.2, 0.4, 0.9]])
    >>> renormalize_in_boxes(saliency_map, np.asarray([[0, 0, 3, 1]])).round(3)
    array([[0. , 0.5, 1. , 0. ]])
    """
    rows, columns = _sides(maps, boxes)
    return _stretched(maps, inside=rows[..., :, None] & columns[..., None, :], eps=eps)


@floating_kernel
def _means(maps: Array, *, rows: Array, columns: Array) -> Array:
    """The mean of maps (..., H, W) in rows (..., M, H) and columns (..., M, W), 0 in none."""
    xp = namespace(maps)
    rows, columns = xp.astype(rows, maps.dtype), xp.astype(columns, maps.dtype)
    # As products, for a mask of each box would take M times the memory.
    total = xp.sum(xp.matmul(rows, maps) * columns, axis=-1)
    return divide(total, xp.sum(rows, axis=-1) * xp.sum(columns, axis=-1))


@floating_kernel
def _products(means: Array, probabilities: Array) -> Array:
    return means * probabilities


@floating_kernel
def _stretched(maps: Array, *, inside: Array, eps: float) -> Array:
    """Maps (..., H, W) stretched inside each of the masks (..., M, H, W), and then as a whole."""
    xp = namespace(maps)
    each = maps[..., None, :, :]
    holds = xp.any(inside, axis=(-2, -1), keepdims=True)
    lowest = xp.min(xp.where(inside, each, xp.inf), axis=(-2, -1), keepdims=True)
    highest = xp.max(xp.where(inside, each, -xp.inf), axis=(-2, -1), keepdims=True)
    lowest, highest = xp.where(holds, lowest, 0), xp.where(holds, highest, 0)
    stretched = xp.where(inside, (each - lowest) / (highest - lowest + eps), 0)
    return normalize(xp.max(stretched, axis=-3), eps=eps)


def _grey(maps: Array) -> Array:
    """Maps (..., H, W) in [0, 1] as levels from 0 to 255, int64; NaN is 0."""
    xp = namespace(maps)
    maps = cast(xp, maps, working_dtype(xp, maps.dtype))
    levels = xp.clip(maps * (LEVELS - 1), min=0, max=LEVELS - 1)
    return xp.astype(xp.where(xp.isnan(levels), 0, levels), xp.int64)


def _otsu(levels: Array) -> Array:
    """Otsu's threshold of levels (N, n), int64 (N,).

    The variance between the classes up to a level and above it, times the square of the number of
    pixels n: (n s - S c)^2 / (c (n - c)), where c pixels of the sum s are up to the level, and S is
    the sum of all. Both sides of the division are whole numbers, so that equals are equal.
    """
    xp = namespace(levels)
    level = xp.arange(LEVELS, dtype=xp.int64, device=device(levels))
    counts = count_at(levels, LEVELS)
    below = xp.cumulative_sum(counts, axis=-1)
    sums = xp.cumulative_sum(counts * level, axis=-1)
    pixels = below[..., -1:]
    apart = xp.astype(pixels * sums - sums[..., -1:] * below, xp.float64)
    variance = divide(apart * apart, xp.astype(below * (pixels - below), xp.float64))
    best = variance == xp.max(variance, axis=-1, keepdims=True)
    return xp.min(xp.where(best, level, LEVELS), axis=-1)


def _first_pixels(masks: Array, connectivity: Connectivity) -> Array:
    """The first pixel in reading order of each pixel's component, int64 (N, H W), of masks
    (N, H, W). Pixels outside of all are components of their own.
    """
    if connectivity not in (4, 8):
        raise InputError(f"expected a connectivity of 4 or 8, got {connectivity!r}")

    def follow(first: Array, masks: Array) -> tuple[Array, Array]:
        xp = namespace(first)
        height, width = masks.shape[-2:]
        none = height * width
        known = take_at(first, first)
        beside = xp.where(masks, xp.reshape(known, masks.shape), none)
        beside = xp.where(masks, _least_around(beside, none, connectivity), none)
        beside = xp.reshape(beside, first.shape)
        # The first pixel, too, learns what its component's others have found.
        found = least_at(first, first, beside, bound=none)
        found = xp.minimum(found, known)
        # Sixteen times as far: cheap, beside a round more.
        for _ in range(4):
            found = take_at(found, found)
        return found, xp.all(found == first)

    xp = namespace(masks)
    shape = (masks.shape[0], masks.shape[1] * masks.shape[2])
    pixels = xp.arange(shape[1], dtype=xp.int64, device=device(masks))
    return repeat_until_still(follow, xp.broadcast_to(pixels, shape) + 0, masks)


def _least_around(values: Array, beyond: Any, connectivity: Connectivity) -> Array:
    """The least of the values (N, H, W) of each pixel and its neighbours."""
    along_rows = _least_of_three(values, beyond, -1)
    if connectivity == 4:
        xp = namespace(values)
        return xp.minimum(along_rows, _least_of_three(values, beyond, -2))
    return _least_of_three(along_rows, beyond, -2)


def _least_of_three(values: Array, beyond: Any, axis: int) -> Array:
    """The least of each value and of the two beside it along one of the last two axes."""
    xp = namespace(values)
    padded = _padded(values, beyond, axis)
    if axis == -1:
        before, after = padded[..., :-2], padded[..., 2:]
    else:
        before, after = padded[..., :-2, :], padded[..., 2:, :]
    return xp.minimum(xp.minimum(before, after), values)


def _padded(values: Array, filling: Any, axis: int) -> Array:
    """Values with one more at either end of an axis."""
    xp = namespace(values)
    edge = values[..., :1] if axis == -1 else values[..., :1, :]
    edge = xp.full_like(edge, filling)
    return xp.concat([edge, values, edge], axis=axis)


def _is_external(masks: Array, first: Array) -> Array:
    """Whether each pixel (N, H W) is the first of a component that touches what is outside of all:
    the background's part, of 4 neighbours, that a frame around the mask belongs to.
    """
    xp = namespace(masks)
    background = ~_padded(_padded(masks, False, -1), False, -2)
    parts = xp.reshape(_first_pixels(background, 4), background.shape)
    # The frame's first pixel is the first of all.
    inner = cast(xp, ~background | (parts > 0), xp.int64)
    beside = _least_around(inner, 1, 4)[:, 1:-1, 1:-1]
    touches = xp.reshape(xp.where(masks, beside, 1), first.shape)
    return least_at(xp.ones_like(first), first, touches, bound=1) == 0


def _by_area(areas: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest areas of (N, n), and their places; of equal ones the first places.

    An area of 0 is nothing's, and has the place 0.
    """
    xp = namespace(areas)
    size = areas.shape[1]
    places = xp.arange(size, dtype=xp.int64, device=device(areas))
    # No two are equal, so that every library sorts them alike.
    keys = xp.where(areas > 0, areas * (size + 1) + (size - places), 0)
    nothing = xp.zeros((areas.shape[0], count), dtype=xp.int64, device=device(areas))
    keys = xp.concat([keys, nothing], axis=-1)
    if is_torch_namespace(xp):
        keys = xp.topk(keys, count, dim=-1).values
    else:
        keys = xp.sort(keys, axis=-1, descending=True)[:, :count]
    areas, rest = divide_whole(keys, size + 1)
    return areas, xp.where(areas > 0, size - rest, 0)


def _coordinates(maps: Array) -> tuple[Array, Array]:
    """The y (H,) and x (W,) of the pixels of maps (..., H, W), int64."""
    xp = namespace(maps)
    y, x = (xp.arange(length, dtype=xp.int64, device=device(maps)) for length in maps.shape[-2:])
    return y, x


def _sides(maps: Array, boxes: Array) -> tuple[Array, Array]:
    """Which rows (..., M, H) and which columns (..., M, W) of the maps are in each box."""
    _check_maps(maps)
    xp = namespace(maps, boxes)
    fits = boxes.ndim >= 2 and agree(boxes.shape[-1], 4)
    numbers = xp.isdtype(boxes.dtype, ("integral", "real floating"))
    if not (numbers and fits and broadcasts(maps.shape[:-2], boxes.shape[:-2])):
        raise InputError(
            "expected maps (..., H, W) and boxes (..., M, 4), numbers, whose leading axes "
            f"broadcast, got {show(maps.shape)} and {show(boxes.shape)} of {boxes.dtype}"
        )
    whole = xp.isdtype(boxes.dtype, "integral")
    boxes = cast(xp, boxes, xp.int64 if whole else working_dtype(xp, boxes.dtype))
    y, x = (cast(xp, place, boxes.dtype) for place in _coordinates(maps))
    x1, y1, x2, y2 = (boxes[..., n, None] for n in range(4))
    return (y1 <= y) & (y < y2), (x1 <= x) & (x < x2)


def _rows(values: Array) -> Array:
    """(..., H, W) as (N, H W)."""
    leading, height, width = _leading(values)
    return namespace(values).reshape(values, (leading, height * width))


def _stacked(masks: Array) -> Array:
    """(..., H, W) as (N, H, W)."""
    return namespace(masks).reshape(masks, _leading(masks))


def _leading(values: Array) -> tuple[Any, Any, Any]:
    """The number of maps, which is told by its factors where there are none; height and width."""
    height, width = values.shape[-2:]
    return math.prod(values.shape[:-2]), height, width


def _check_maps(maps: Array) -> Any:
    xp = namespace(maps)
    if not xp.isdtype(maps.dtype, "real floating"):
        raise InputError(
            f"expected floating-point maps, got {maps.dtype}; convert with astype first"
        )
    check_maps(maps, spatial_ndim=2)
    return xp


def _check_masks(masks: Array) -> Any:
    xp = namespace(masks)
    if not xp.isdtype(masks.dtype, "bool"):
        raise InputError(
            f"expected boolean masks, got {masks.dtype}; compare with a threshold first"
        )
    check_maps(masks, spatial_ndim=2)
    return xp


def _check_fractions(threshold: Any) -> None:
    fractions = [threshold] if isinstance(threshold, float | int) else threshold
    if isinstance(fractions, str) or not fractions or not all(0 <= each < 1 for each in fractions):
        raise InputError(
            f"expected the threshold 'otsu', or one or more fractions from 0 to less than 1, got "
            f"{threshold!r}"
        )
