"""Ablation: activations without one channel, and what their scores say about it.

`activations` are the outputs of a layer, (..., C, *S), of any array API library. Channels are given
by number, integers (n,) for the whole batch or (..., n) for each image, so that a graph can work on
a few at a time. Other arrays and shapes raise `InputError`.
"""

import math
from typing import Any

from array_api_compat import device

from camcore._arrays import (
    Array,
    add_space,
    broadcasts,
    check_channels,
    check_indexed,
    divide,
    floating_kernel,
    largest,
    namespace,
    show,
    space,
    spread_nonfinite,
)
from camcore.errors import InputError
from camcore.projection import first_component
from camcore.weighting import weighted_sum


def ablate(
    activations: Array, channels: Array, /, *, value: float = 0.0, spatial_ndim: int = 2
) -> Array:
    """Copies of the activations, (n, ..., C, *S), each with one of n channels set to `value`.

    A number outside 0 to C - 1 ablates nothing: so a last chunk can be filled up. A NaN in the
    ablated channel goes with it.

    Source: Desai and Ramaswamy 2020, https://doi.org/10.1109/WACV45572.2020.9093360, where the
    value is 0. pytorch-grad-cam's is far below the minimum wherever that is not 0, and depends on
    the place in the batch.

    >>> import numpy as np
    >>> ablate(np.ones((2, 3)), np.asarray([1]), spatial_ndim=1)
    array([[[1., 1., 1.],
            [0., 0., 0.]]])
    """
    xp, channels = _check_channel_numbers(activations, channels, spatial_ndim)
    channels = xp.moveaxis(channels, -1, 0)
    batch_axes = activations.ndim - 1 - spatial_ndim
    channels = channels[(slice(None), *(None,) * (batch_axes + 1 - channels.ndim), ...)]
    index = xp.arange(activations.shape[-1 - spatial_ndim], device=device(activations))
    ablated = add_space(channels[..., None] == index, spatial_ndim=spatial_ndim)
    return xp.where(ablated, value, activations)


@floating_kernel
def ablation_weights(score: Array, ablated: Array, /, *, eps: float = 1e-7) -> Array:
    """Ablation-CAM's channel weights, (..., n): the score's drop, (y - y_n) / (|y| + eps).

    `score` (...) is that of the whole activations, `ablated` (..., n) are those without channel n.
    The size of the score divides, not the score: below zero it would turn the map around. A channel
    that is not ablated has no weight.

    Source: Desai and Ramaswamy 2020, https://doi.org/10.1109/WACV45572.2020.9093360, where y
    divides

    >>> import numpy as np
    >>> ablation_weights(np.asarray([-4.0]), np.asarray([[-5.0, -4.0]])).round(3)
    array([[0.25, 0.  ]])
    """
    if ablated.ndim < 1 or not broadcasts(score.shape, ablated.shape[:-1]):
        raise InputError(
            "expected a score (...) and ablated scores (..., n) with leading axes that broadcast, "
            f"got {show(score.shape)} and {show(ablated.shape)}"
        )
    y = score[..., None]
    return divide(y - ablated, namespace(score).abs(y) + eps)


@floating_kernel
def linear_ablation(
    activations: Array, gradients: Array, score: Array, /, *, spatial_ndim: int = 2
) -> Array:
    """The scores (..., C) without each channel, where the score is linear in the activations.

    `score` (...) is that of the whole activations, `gradients` are the score's, of the activations'
    shape. A channel's contribution is then the sum of its gradient times activation, and setting it
    to 0 takes just that away: y_c = y - sum over S of G_c A_c.

    >>> import numpy as np
    >>> A = np.asarray([[1.0, 2.0], [3.0, 4.0]])  # with y = 2 (1 + 2) + 1 (3 + 4)
    >>> linear_ablation(A, np.asarray([[2.0, 2], [1, 1]]), np.asarray(13.0), spatial_ndim=1)
    array([7., 6.])
    """
    check_channels(activations, spatial_ndim=spatial_ndim)
    contributions = gradients * activations
    return score[..., None] - namespace(score).sum(contributions, axis=space(spatial_ndim))


@floating_kernel
def ablationcam(
    activations: Array,
    score: Array,
    ablated: Array,
    /,
    *,
    spatial_ndim: int = 2,
    eps: float = 1e-7,
) -> Array:
    """Ablation-CAM, raw maps (..., *S): n channels weighted by how much the score needs them.

    `activations` (..., n, *S) are those of the channels that were ablated, one at a time; `score`
    (...) and `ablated` (..., n) are as in `ablation_weights`.

    Source: Desai and Ramaswamy 2020, https://doi.org/10.1109/WACV45572.2020.9093360

    >>> import numpy as np
    >>> ablationcam(np.ones((2, 4, 4)), np.asarray(2.0), np.asarray([1.0, 2.0])).shape
    (4, 4)
    """
    weights = ablation_weights(score, ablated, eps=eps)
    return weighted_sum(activations, weights, spatial_ndim=spatial_ndim)


def channels_to_ablate(activations: Array, /, *, ratio: float, spatial_ndim: int = 2) -> Array:
    """The channels worth ablating, int64 (..., m), in ascending order: m = round(ratio C), or 1.

    They are those that overlap most with the object: the points where the first principal
    component, its absolute value stretched to [0, 1], is above 0.01. A channel's overlap is the
    part of its own absolute values, without their minimum, that lies there; a constant channel has
    none. Of equal channels the first ones are taken.

    A channel that holds a NaN comes first. C is a plain integer, also while a graph is traced.

    Source: pytorch-grad-cam's option ratio_channels_to_ablate,
    https://github.com/jacobgil/pytorch-grad-cam, which takes the channels of least overlap too,
    twice as many as asked for, and some of them twice

    >>> import numpy as np
    >>> activations = np.asarray([[0.0, 9, 0, 0], [0, 5, 0, 1], [1, 1, 1, 1], [0, 0, 2, 0]])
    >>> channels_to_ablate(activations, ratio=0.5, spatial_ndim=1)
    array([0, 3])
    """
    check_channels(activations, spatial_ndim=spatial_ndim)
    count = share(ratio, activations.shape[-1 - spatial_ndim])
    return largest(_overlap(activations, spatial_ndim=spatial_ndim), count)


def take_channels(activations: Array, channels: Array, /, *, spatial_ndim: int = 2) -> Array:
    """The channels of these numbers, (..., n, *S); zeros for a number outside 0 to C - 1.

    >>> import numpy as np
    >>> take_channels(np.asarray([[1.0, 2.0], [3.0, 4.0]]), np.asarray([1, -1]), spatial_ndim=1)
    array([[3., 4.],
           [0., 0.]])
    """
    xp, channels = _check_channel_numbers(activations, channels, spatial_ndim)
    axis = activations.ndim - 1 - spatial_ndim
    count = activations.shape[axis]
    inside = (channels >= 0) & (channels < count)
    channels = xp.where(inside, channels, 0)
    if channels.ndim == 1:
        taken = xp.take(activations, channels, axis=axis)
    else:
        taken = _take_by_image(xp, activations, channels, spatial_ndim)
    return xp.where(add_space(inside, spatial_ndim=spatial_ndim), taken, 0.0)


def _take_by_image(xp: Any, activations: Array, channels: Array, spatial_ndim: int) -> Array:
    """As rows of one long table of all images' channels, which is one gather in a graph."""
    *batch, count = activations.shape[:-spatial_ndim]
    S = activations.shape[-spatial_ndim:]
    images, chosen = math.prod(batch), channels.shape[-1]
    channels = xp.reshape(xp.broadcast_to(channels, (*batch, chosen)), (images, chosen))
    rows = channels + count * xp.arange(images, device=device(activations))[:, None]
    table = xp.reshape(activations, (images * count, *S))
    return xp.reshape(xp.take(table, xp.reshape(rows, (-1,)), axis=0), (*batch, chosen, *S))


@floating_kernel
def _overlap(activations: Array, /, *, spatial_ndim: int) -> Array:
    """The share of each channel, (..., C), inside the mask of the first component."""
    xp = namespace(activations)
    S = space(spatial_ndim)
    component = xp.abs(first_component(activations, spatial_ndim=spatial_ndim))
    component = component - xp.min(component, axis=S, keepdims=True)
    mask = component > 0.01 * xp.max(component, axis=S, keepdims=True)
    sizes = xp.abs(spread_nonfinite(activations, spatial_ndim=spatial_ndim))
    sizes = sizes - xp.min(sizes, axis=S, keepdims=True)
    inside = xp.where(xp.expand_dims(mask, axis=-1 - spatial_ndim), sizes, 0.0)
    return divide(xp.sum(inside, axis=S), xp.sum(sizes, axis=S))


def share(ratio: float, channels: Any) -> int:
    """How many of so many channels a ratio of them is: round(ratio C), or 1.

    >>> share(0.1, 256)
    26
    """
    if not isinstance(channels, int):
        raise InputError("expected a number of channels that is fixed while a graph is traced")
    if not 0 < ratio <= 1:
        raise InputError(f"expected a ratio above 0 and at most 1, got {ratio}")
    return max(1, round(ratio * channels))


def _check_channel_numbers(
    activations: Array, channels: Array, spatial_ndim: int
) -> tuple[Any, Array]:
    checked = check_indexed(activations, channels, name="channels")
    check_channels(activations, spatial_ndim=spatial_ndim)
    if not broadcasts(activations.shape[: -1 - spatial_ndim], channels.shape[:-1]):
        raise InputError(
            "expected activations (..., C, *S) and channels (n,) or (..., n) with leading axes "
            f"that broadcast, got {show(activations.shape)} and {show(channels.shape)}"
        )
    return checked
