"""Masking: masks for an image or for activations, and maps from the scores of what is left.

Masks are (..., n, *S) or (n, *S), floating point, of any array API library. A mask is a function of
its own channel or index alone, so that a graph can work on a few at a time and get what one call
would give. Other arrays and shapes raise `InputError`.
"""

import math
from typing import Any

from array_api_compat import device

from camcore import noise
from camcore._arrays import (
    Array,
    add_space,
    agree,
    cast,
    check_channels,
    check_features,
    check_indexed,
    check_shape,
    divide,
    divide_whole,
    floating_kernel,
    known,
    largest,
    multiply_along,
    namespace,
    show,
    space,
    spread_nonfinite,
    working_dtype,
)
from camcore.errors import InputError
from camcore.scaling import Size, interpolation_weights, resize
from camcore.targets import probability as softmax
from camcore.weighting import weighted_sum


@floating_kernel
def score_masks(
    activations: Array,
    size: Size,
    /,
    *,
    align_corners: bool = False,
    spatial_ndim: int = 2,
) -> Array:
    """Score-CAM's masks (..., n, *size) in [0, 1]: n channels resized, then stretched to [0, 1].

    Each channel is stretched by its own minimum and maximum, however near they are. A constant
    channel gives zeros, one that holds a NaN or an infinity NaN throughout.

    Source: Wang et al. 2020, equations 5 and 6, https://arxiv.org/abs/1910.01279.
    pytorch-grad-cam's masks have `align_corners`, unlike its maps, and 1e-8 below the fraction
    line, which an ONNX exporter takes for 0.

    >>> import numpy as np
    >>> score_masks(np.asarray([[2.0, 4.0]]), (4,), spatial_ndim=1).round(3)
    array([[0.  , 0.25, 0.75, 1.  ]])
    """
    check_channels(activations, spatial_ndim=spatial_ndim)
    check_shape(size, name="size")
    if len(size) != spatial_ndim:
        raise InputError(f"expected a size of {spatial_ndim} lengths, got {show(size)}")
    xp, S = namespace(activations), space(spatial_ndim)
    # Stretching takes the minimum off anyway. Taken off first, it leaves no rounding of a constant
    # for the stretching to blow up.
    masks = activations - xp.min(activations, axis=S, keepdims=True)
    masks = resize(masks, size, align_corners=align_corners)
    masks = masks - xp.min(masks, axis=S, keepdims=True)
    return divide(masks, xp.max(masks, axis=S, keepdims=True))


@floating_kernel
def scorecam_weights(scores: Array, /) -> Array:
    """Score-CAM's channel weights, (..., n): the softmax of the masked images' scores.

    The paper takes the score of a baseline image off first, TorchCAM and scorecam-pytorch that of
    the whole image, pytorch-grad-cam nothing. It is the same for all channels, so the weights are.

    Scores of n channels that were kept, as of `strongest_channels`, give these a sum of 1.

    Source: Wang et al. 2020, https://arxiv.org/abs/1910.01279

    >>> import numpy as np
    >>> scorecam_weights(np.log(np.asarray([[1.0, 3.0]]))).round(3)
    array([[0.25, 0.75]])
    """
    return softmax(scores)


def strongest_channels(activations: Array, /, *, count: int = 16, spatial_ndim: int = 2) -> Array:
    """The `count` channels with the largest maximum, int64 (..., count), in ascending order.

    Of equal channels the first ones are taken. A channel that holds a NaN or an infinity comes
    before all others.

    Source: CSKIP of https://github.com/tiskw/scorecam-pytorch, whose `count` is the default

    >>> import numpy as np
    >>> activations = np.asarray([[0.0, 3.0], [1.0, 1.0], [2.0, 9.0]])
    >>> strongest_channels(activations, count=2, spatial_ndim=1)
    array([0, 2])
    """
    check_channels(activations, spatial_ndim=spatial_ndim)
    channels = activations.shape[-1 - spatial_ndim : -spatial_ndim]
    if count < 1 or any(count > each for each in known(channels)):
        raise InputError(
            f"expected a count of 1 to the number of channels, got {count} for "
            f"{show(activations.shape)}"
        )
    return largest(_strengths(activations, spatial_ndim=spatial_ndim), count)


def sscam_masks(
    masks: Array, indices: Array, /, *, std: float = 2.0, seed: int = 0, spatial_ndim: int = 2
) -> Array:
    """SS-CAM's masks, (..., n, *S): Score-CAM's with normal noise of that deviation added.

    The noise of a mask is that of its index (n,), an integer of 0 or more, and of the seed, the
    same in every image. For sample i of channel k the index is i C + k. As in TorchCAM the values
    are neither clipped nor stretched again.

    Source: Wang et al. 2020, https://arxiv.org/abs/2006.14255; `std` is the paper's and TorchCAM's

    >>> import numpy as np
    >>> sscam_masks(np.zeros((4, 2, 7, 7)), np.asarray([0, 1])).shape
    (4, 2, 7, 7)
    """
    xp, indices = _check_masks(masks, indices, spatial_ndim, name="indices")
    working = cast(xp, masks, working_dtype(xp, masks.dtype))
    rows = noise.normal_rows(working, indices, masks.shape[-spatial_ndim:], seed=seed)
    return cast(xp, working + std * rows, masks.dtype)


@floating_kernel
def sscam_weights(scores: Array, /) -> Array:
    """SS-CAM's channel weights, (..., n), of scores (n_samples, ..., n): softmax of their mean.

    See `scorecam_weights` for the baseline.

    Source: Wang et al. 2020, https://arxiv.org/abs/2006.14255

    >>> import numpy as np
    >>> sscam_weights(np.asarray([[1.0, 1.0], [3.0, 3.0]]))
    array([0.5, 0.5])
    """
    return _mean_softmax(scores)


def iscam_masks(
    masks: Array, samples: Array, /, *, n_samples: int = 10, spatial_ndim: int = 2
) -> Array:
    """IS-CAM's masks, (..., n, *S): Score-CAM's times the sum of 1 / N to (i + 1) / N.

    `samples` (n,) are the integers i of 0 to N - 1, with N = `n_samples`. The sum is TorchCAM's: it
    grows from 1 / N to (N + 1) / 2, beyond 1.

    Source: Naidu et al. 2020, https://arxiv.org/abs/2010.03023, as in TorchCAM, whose `n_samples`
    is the default

    >>> import numpy as np
    >>> iscam_masks(np.ones((2, 1)), np.asarray([0, 9]), spatial_ndim=1)
    array([[0.1],
           [5.5]])
    """
    xp, samples = _check_masks(masks, samples, spatial_ndim, name="samples")
    if n_samples < 1:
        raise InputError(f"expected at least one sample, got n_samples={n_samples}")
    working = working_dtype(xp, masks.dtype)
    i = cast(xp, samples, working)
    factors = (i + 1) * (i + 2) / (2 * n_samples)
    factors = factors[(slice(None), *(None,) * spatial_ndim)]
    return cast(xp, cast(xp, masks, working) * factors, masks.dtype)


@floating_kernel
def iscam_weights(scores: Array, /) -> Array:
    """IS-CAM's channel weights, (..., n), of scores (n_samples, ..., n): softmax of their mean.

    See `scorecam_weights` for the baseline.

    Source: Naidu et al. 2020, https://arxiv.org/abs/2010.03023

    >>> import numpy as np
    >>> iscam_weights(np.asarray([[1.0, 1.0], [3.0, 3.0]]))
    array([0.5, 0.5])
    """
    return _mean_softmax(scores)


@floating_kernel
def scorecam(activations: Array, scores: Array, /, *, spatial_ndim: int = 2) -> Array:
    """Score-CAM, raw maps (..., *S): n channels weighted by the score of what they show.

    `activations` are (..., n, *S), `scores` (..., n) those of the image behind each channel's mask.

    Source: Wang et al. 2020, https://arxiv.org/abs/1910.01279

    >>> import numpy as np
    >>> scorecam(np.ones((2, 4, 4)), np.asarray([1.0, 3.0])).shape
    (4, 4)
    """
    return weighted_sum(activations, scorecam_weights(scores), spatial_ndim=spatial_ndim)


@floating_kernel
def sscam(activations: Array, scores: Array, /, *, spatial_ndim: int = 2) -> Array:
    """SS-CAM, raw maps (..., *S): as Score-CAM, of scores (n_samples, ..., n) of noisy masks.

    Source: Wang et al. 2020, https://arxiv.org/abs/2006.14255

    >>> import numpy as np
    >>> sscam(np.ones((2, 4, 4)), np.asarray([[1.0, 3.0], [2.0, 4.0]])).shape
    (4, 4)
    """
    return weighted_sum(activations, sscam_weights(scores), spatial_ndim=spatial_ndim)


@floating_kernel
def iscam(activations: Array, scores: Array, /, *, spatial_ndim: int = 2) -> Array:
    """IS-CAM, raw maps (..., *S): as Score-CAM, of scores (n_samples, ..., n) of growing masks.

    Source: Naidu et al. 2020, https://arxiv.org/abs/2010.03023

    >>> import numpy as np
    >>> iscam(np.ones((2, 4, 4)), np.asarray([[1.0, 3.0], [2.0, 4.0]])).shape
    (4, 4)
    """
    return weighted_sum(activations, iscam_weights(scores), spatial_ndim=spatial_ndim)


def reciprocam(scores: Array, shape: tuple[Any, ...], /) -> Array:
    """Recipro-CAM, raw maps (..., *S): each point's value is the score of that point alone.

    `scores` (..., n) are those of the n points of the shape S, as `point_masks` counts them.

    Source: Byun and Lee 2022, https://arxiv.org/abs/2209.14074, and for tokens 2023,
    https://arxiv.org/abs/2310.02588

    >>> import numpy as np
    >>> reciprocam(np.ones((4, 6)), (2, 3)).shape
    (4, 2, 3)
    """
    xp = namespace(scores)
    check_shape(shape, name="shape")
    if scores.ndim < 1 or not agree(scores.shape[-1], math.prod(shape)):
        raise InputError(
            f"expected a score for each point of {show(shape)}, got {show(scores.shape)}"
        )
    return xp.reshape(scores, (*scores.shape[:-1], *shape))


@floating_kernel
def linear_reciprocam(
    activations: Array,
    gradients: Array,
    score: Array,
    /,
    *,
    gaussian: bool = False,
    spatial_ndim: int = 2,
) -> Array:
    """Recipro-CAM, raw maps (..., *S), where the score is linear in the activations.

    `score` (...) is that of the whole activations, `gradients` are the score's, of the activations'
    shape. A point then contributes the sum over channels of its gradient times activation, and the
    score of that point alone lacks what all others contribute; with `gaussian` it keeps of its
    neighbours what `point_masks` does.

    >>> import numpy as np
    >>> A = np.asarray([[1.0, 2.0], [3.0, 4.0]])  # with y = 2 (1 + 2) + 1 (3 + 4) + 0.5
    >>> linear_reciprocam(A, np.asarray([[2.0, 2], [1, 1]]), np.asarray(13.5), spatial_ndim=1)
    array([5.5, 8.5])
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    xp = namespace(activations, gradients)
    kept = contributions = xp.sum(gradients * activations, axis=-1 - spatial_ndim)
    if gaussian:
        for axis in range(-spatial_ndim, 0):
            length = kept.shape[axis]
            line = _line(kept, xp.arange(length, device=device(kept)), length, gaussian)
            kept = multiply_along(line, kept, axis)
    without = score - xp.sum(contributions, axis=space(spatial_ndim))
    return add_space(without, spatial_ndim=spatial_ndim) + kept


def point_masks(
    points: Array, shape: tuple[Any, ...], like: Array, /, *, gaussian: bool = False
) -> Array:
    """Recipro-CAM's masks (n, *S): 1 at one point of space each, 0 elsewhere.

    A point of the shape S is given by its number, the last axis counting fastest. With `gaussian`
    they are ViT-ReciproCAM's: 1/4 at the point, 1/8 and 1/16 beside it; what lies over the border
    is lost. A number outside gives zeros: so a last chunk can be filled up.

    `like` gives the library, the device and the precision. The class token of a transformer is not
    masked.

    Source: Byun and Lee 2022, https://arxiv.org/abs/2209.14074, and 2023,
    https://arxiv.org/abs/2310.02588, both as in OpenVINO XAI

    >>> import numpy as np
    >>> point_masks(np.asarray([1, 5]), (2, 3), np.ones(1))
    array([[[0., 1., 0.],
            [0., 0., 0.]],
    <BLANKLINE>
           [[0., 0., 0.],
            [0., 0., 1.]]])
    """
    xp, points = _check_rows(points, shape, like, name="points")
    size = math.prod(shape)
    inside = (points >= 0) & (points < size)
    left = xp.where(inside, points, 0)
    masks = cast(xp, inside, like.dtype)
    for axis in range(len(shape)):
        place, left = divide_whole(left, math.prod(shape[axis + 1 :]))
        line = _line(like, place, shape[axis], gaussian)
        masks = masks[..., None] * line[(slice(None), *(None,) * axis, ...)]
    return masks


def rise_masks(
    indices: Array,
    size: Size,
    like: Array,
    /,
    *,
    cells: int = 8,
    probability: float = 0.5,
    seed: int = 0,
) -> Array:
    """RISE's masks (n, H, W) in [0, 1]: random coarse grids, enlarged and shifted.

    A grid of `cells` by `cells` holds 1 with that probability and 0 otherwise. It is enlarged
    linearly to one cell more than the image has, and cut to the image's size at a random place
    within the first cell; a cell is ceil(H / cells) by ceil(W / cells) pixels.

    A mask is a function of its index (n,), an integer, and of the seed. An index below 0 gives
    zeros: so a last chunk can be filled up. `like` gives the library, the device and the precision.

    Source: Petsiuk et al. 2018, section 3.2, https://arxiv.org/abs/1806.07421, with the cells
    rounded up as in the authors' code. They mirror the grid at its border, here it is repeated.

    >>> import numpy as np
    >>> rise_masks(np.arange(5), (32, 48), np.ones(1)).shape
    (5, 32, 48)
    """
    xp, indices = _check_rows(indices, size, like, name="indices")
    _check_probability(probability)
    if len(size) != 2 or cells < 1:
        raise InputError(
            f"expected a size (H, W) and at least one cell, got {show(size)} and {cells}"
        )
    # Where they are negative, any other.
    numbers = noise.integer_rows(xp.clip(indices, min=0), 2 + cells * cells, seed=seed)
    bits = (numbers[:, 2:] < int(probability * noise.PRIME)) & (indices >= 0)[:, None]
    working = xp.empty(0, dtype=working_dtype(xp, like.dtype), device=device(like))
    grids = xp.reshape(cast(xp, bits, working.dtype), (indices.shape[0], cells, cells))
    rows = _shifted(working, numbers[:, :1], cells, size[0])
    columns = _shifted(working, numbers[:, 1:2], cells, size[1])
    masks = xp.matmul(xp.matmul(rows, grids), xp.matrix_transpose(columns))
    return cast(xp, masks, like.dtype)


@floating_kernel
def rise_map(sums: Array, /, *, n_masks: int = 4000, probability: float = 0.5) -> Array:
    """RISE, raw maps (..., H, W): the masks' mean, weighted by score, over their expected value.

    `sums` (..., H, W) are the sums of score times mask over all `n_masks`, added up in as many
    parts as one likes: `weighted_sum` of masks (n, H, W) and scores (..., n) is one. `probability`
    is that of `rise_masks`.

    Source: Petsiuk et al. 2018, equation 6, https://arxiv.org/abs/1806.07421

    >>> import numpy as np
    >>> from camcore import weighted_sum
    >>> masks = rise_masks(np.arange(100), (32, 48), np.ones(1))
    >>> rise_map(weighted_sum(masks, np.ones((7, 100))), n_masks=100).shape
    (7, 32, 48)
    """
    _check_probability(probability)
    if n_masks < 1:
        raise InputError(f"expected at least one mask, got n_masks={n_masks}")
    return sums / (n_masks * probability)


@floating_kernel
def _strengths(activations: Array, /, *, spatial_ndim: int) -> Array:
    activations = spread_nonfinite(activations, spatial_ndim=spatial_ndim)
    return namespace(activations).max(activations, axis=space(spatial_ndim))


def _mean_softmax(scores: Array) -> Array:
    if scores.ndim < 2 or 0 in known(scores.shape[:1]):
        raise InputError(
            f"expected scores (n_samples, ..., n) of at least one sample, got {show(scores.shape)}"
        )
    return softmax(namespace(scores).mean(scores, axis=0))


def _line(like: Array, place: Array, length: Any, gaussian: bool) -> Array:
    """(n, length): 1 at the place, or 1/2 and 1/4 beside it; products of them are the masks."""
    xp = namespace(like)
    distances = xp.abs(xp.arange(length, device=device(like)) - place[:, None])
    width = 2 if gaussian else 1
    return cast(xp, xp.clip(width - distances, min=0), like.dtype) / width**2


def _shifted(like: Array, numbers: Array, cells: int, length: Any) -> Array:
    """(n, length, cells): the weights of the cells in the pixels, shifted by numbers (n, 1)."""
    cell = (length + cells - 1) // cells
    enlarged = (cells + 1) * cell
    _, shift = divide_whole(numbers, cell)
    pixels = namespace(like).arange(length, device=device(like)) + shift
    return interpolation_weights(
        like, pixels * (2 * cells) + (cells - enlarged), cells, 2 * enlarged
    )


def _check_masks(
    masks: Array, indices: Array, spatial_ndim: int, *, name: str
) -> tuple[Any, Array]:
    checked = check_indexed(masks, indices, name=name)
    check_channels(masks, spatial_ndim=spatial_ndim)
    own = masks.shape[-1 - spatial_ndim : -spatial_ndim]
    if indices.ndim != 1 or not all(map(agree, own, indices.shape)):
        raise InputError(
            f"expected masks (..., n, *S) and {name} (n,), got {show(masks.shape)} and "
            f"{show(indices.shape)}"
        )
    return checked


def _check_rows(
    indices: Array, shape: tuple[Any, ...], like: Array, *, name: str
) -> tuple[Any, Array]:
    checked = check_indexed(like, indices, name=name)
    if indices.ndim != 1 or not shape or any(length < 1 for length in known(shape)):
        raise InputError(
            f"expected {name} (n,) and a shape of positive integers, got {show(indices.shape)} and "
            f"{show(shape)}"
        )
    return checked


def _check_probability(probability: float) -> None:
    if not 0 < probability <= 1:
        raise InputError(f"expected a probability above 0 and at most 1, got {probability}")
