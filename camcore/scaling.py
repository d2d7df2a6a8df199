"""Scaling: from raw maps to maps in [0, 1] at image size.

Maps are (..., *S), floating point, of any array API library; other arrays and shapes raise
`InputError`. A map that holds a NaN or an infinity becomes NaN throughout, and leaves the other
maps of its batch alone.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, Literal, get_args

from array_api_compat import device

from camcore._arrays import (
    Array,
    agree,
    cast,
    check_maps,
    check_shape,
    floating_kernel,
    known,
    multiply_along,
    namespace,
    show,
    space,
    spread_nonfinite,
)
from camcore._arrays import relu as positive_part
from camcore.errors import InputError

How = Literal["mean", "product", "sum", "max"]
Size = tuple[Any, ...]  # of int; while a graph is traced, of symbolic integers

NORMALIZE_EPS = 1e-7  # that of pytorch-grad-cam's `scale_cam_image`


@floating_kernel
def normalize(maps: Array, /, *, spatial_ndim: int = 2, eps: float = NORMALIZE_EPS) -> Array:
    """Each map stretched to [0, 1]: (map - min) / (max - min + eps). A constant map becomes zeros.

    Source: pytorch-grad-cam's `scale_cam_image`, whose `eps` is the default.

    >>> import numpy as np
    >>> normalize(np.asarray([[2.0, 4.0], [3.0, 2.0]])).round(3)
    array([[0. , 1. ],
           [0.5, 0. ]])
    """
    check_maps(maps, spatial_ndim=spatial_ndim)
    return _min_max(spread_nonfinite(maps, spatial_ndim=spatial_ndim), spatial_ndim, eps)


@floating_kernel
def resize(maps: Array, size: Size, /, *, align_corners: bool = False) -> Array:
    """The maps (..., *S) at another size, interpolated linearly along the last len(size) axes.

    Pixel centres lie at half integers and the border is repeated, without antialiasing:
    `cv2.resize` with `INTER_LINEAR`, `torch.nn.functional.interpolate` with `align_corners=False`.
    With `align_corners` the first and the last pixel stay where they are, as in
    `torch.nn.UpsamplingBilinear2d`; of one new pixel it is the first.

    One matrix product per axis whose size changes, so that the same lines run in every library, and
    a graph with fixed sizes holds two constants.

    >>> import numpy as np
    >>> resize(np.asarray([0.0, 1.0]), (4,))
    array([0.  , 0.25, 0.75, 1.  ])
    """
    _check_size(size)
    check_maps(maps, spatial_ndim=len(size))
    return _interpolate(spread_nonfinite(maps, spatial_ndim=len(size)), size, align_corners)


@floating_kernel
def postprocess(
    maps: Array,
    size: Size | None,
    /,
    *,
    relu: bool = True,
    normalize: bool = True,
    spatial_ndim: int = 2,
) -> Array:
    """Raw maps (..., *S) as saliency maps (..., *size) in [0, 1]: relu, min-max, resize, min-max.

    `size` None keeps the feature size. Without `normalize` the values keep their unit, and are at
    least 0 unless `relu` is off as well.

    Source: pytorch-grad-cam's `compute_cam_per_layer` and `aggregate_multi_layers`, for one layer.

    >>> import numpy as np
    >>> postprocess(np.ones((4, 7, 7)), (224, 224)).shape
    (4, 224, 224)
    """
    check_maps(maps, spatial_ndim=spatial_ndim)
    maps = spread_nonfinite(maps, spatial_ndim=spatial_ndim)
    if relu:
        maps = positive_part(maps)
    if normalize:
        maps = _min_max(maps, spatial_ndim)
    if size is not None:
        _check_size(size, spatial_ndim)
        maps = _interpolate(maps, size)
    return _min_max(maps, spatial_ndim) if normalize else maps


def aggregate(maps: Sequence[Array], /, *, how: How = "mean") -> Array:
    """The maps of several layers, each (..., *S) at the same size, as one: (..., *S).

    The mean is pytorch-grad-cam's, the product RefineCAM's, which keeps what all layers agree on,
    the sum FullGrad's, and the maximum keeps what any layer shows. Neither rectified nor scaled.

    Source: https://github.com/jacobgil/pytorch-grad-cam, aggregate_multi_layers and RefineCAM

    Raises:
        InputError: no maps, or maps of different shapes.

    >>> import numpy as np
    >>> aggregate([np.full((2, 2), 0.5), np.full((2, 2), 0.25)], how="product")
    array([[0.125, 0.125],
           [0.125, 0.125]])
    """
    if not isinstance(maps, Sequence):
        raise InputError(f"expected a list of maps, one a layer, got {type(maps).__name__}")
    if not maps:
        raise InputError("expected the maps of at least one layer, got none")
    return _aggregate(*maps, how=how)


@floating_kernel
def _aggregate(*maps: Array, how: How) -> Array:
    if how not in get_args(How):
        raise InputError(f"expected how to be one of {', '.join(get_args(How))}, got {how!r}")
    shape = maps[0].shape
    for other in maps[1:]:
        if other.ndim != len(shape) or not all(map(agree, shape, other.shape)):
            raise InputError(
                "expected maps of one shape, resized first, got "
                f"{' and '.join(show(each.shape) for each in maps)}"
            )
    if how == "product":
        return functools.reduce(operator.mul, maps)
    if how == "max":
        return functools.reduce(namespace(maps[0]).maximum, maps)
    total = functools.reduce(operator.add, maps)
    return total / len(maps) if how == "mean" else total


def _min_max(maps: Array, spatial_ndim: int, eps: float = NORMALIZE_EPS) -> Array:
    xp = namespace(maps)
    S = space(spatial_ndim)
    lowest = xp.min(maps, axis=S, keepdims=True)
    highest = xp.max(maps, axis=S, keepdims=True)
    return (maps - lowest) / (highest - lowest + eps)


def _interpolate(maps: Array, size: Size, align_corners: bool = False) -> Array:
    for axis in reversed(space(len(size))):
        old, new = maps.shape[axis], size[axis]
        if known((old, new)) == [new, new]:
            continue
        maps = multiply_along(_interpolation_matrix(maps, old, new, align_corners), maps, axis)
    return maps


def _interpolation_matrix(like: Array, old: Any, new: Any, align_corners: bool) -> Array:
    """(new, old). New point n lies at (n + 1/2) old / new - 1/2, or at n (old - 1) / (new - 1)."""
    new_points = namespace(like).arange(new, device=device(like))
    if align_corners:
        # The last term is 1 where there is one new point, and a branch would fix a symbolic size.
        unit = new - 1 + 1 // new
        return interpolation_weights(like, new_points * (old - 1), old, unit)
    return interpolation_weights(like, new_points * (2 * old) + (old - new), old, 2 * new)


def interpolation_weights(like: Array, points: Array, old: Any, unit: Any) -> Array:
    """(..., new, old): the weights of the old points in new points (..., new) between them.

    A weight falls linearly with the distance, to 0 at distance 1. Points are counted in units of
    1 / unit, which keeps them whole numbers: exact for every size and precision, and free of
    symbolic fractions while a graph is traced. Those outside count as being at the border.
    """
    xp = namespace(like)
    old_points = xp.arange(old, device=device(like)) * unit
    points = xp.minimum(xp.clip(points, min=0), old_points[-1])
    distances = xp.abs(points[..., None] - old_points)
    return cast(xp, xp.clip(unit - distances, min=0), like.dtype) / unit


def _check_size(size: Size, spatial_ndim: int | None = None) -> None:
    check_shape(size, name="size")
    if len(size) != (spatial_ndim or len(size)) or any(length < 1 for length in known(size)):
        axes = "" if spatial_ndim is None else f"{spatial_ndim} "
        raise InputError(f"expected a size of {axes}positive integers, got {show(size)}")
