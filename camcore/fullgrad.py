"""FullGrad: the score told apart into what the input and what every bias contributes.

For a network of rectified linear layers the score is the input times its gradient plus every bias
times the gradient at its place. Each of these terms becomes a map of its own; resized to one size
and summed (`camcore.resize`, `camcore.aggregate` with how="sum"), they are FullGrad's raw map.

Source: Srinivas and Fleuret 2019, https://arxiv.org/abs/1905.00780

Floating-point arrays of any array API library; other arrays and shapes raise `InputError`.
"""

import math
from typing import Literal

from camcore._arrays import Array, add_space, check_features, floating_kernel, namespace
from camcore.errors import InputError
from camcore.scaling import NORMALIZE_EPS

Scale = Literal["channel", "layer"]


@floating_kernel
def fullgrad_input(
    images: Array, gradients: Array, /, *, spatial_ndim: int = 2, scale: Scale = "channel"
) -> Array:
    """The input's term, (..., *S): the size of image times gradient, both (..., C, *S).

    Each channel is stretched to [0, 1] before they are summed, which is the equation, and
    pytorch-grad-cam. With `scale` "layer" all channels of an image are stretched as one, which
    keeps their proportions, and is what the authors' own program does.

    Source: Srinivas and Fleuret 2019, https://arxiv.org/abs/1905.00780

    >>> import numpy as np
    >>> fullgrad_input(np.ones((4, 3, 224, 224)), np.ones((4, 3, 224, 224))).shape
    (4, 224, 224)
    """
    check_features(images, gradients, spatial_ndim=spatial_ndim, name="gradients")
    return _term(images * gradients, spatial_ndim, scale)


@floating_kernel
def fullgrad_bias(
    biases: Array, gradients: Array, /, *, spatial_ndim: int = 2, scale: Scale = "channel"
) -> Array:
    """A layer's term, (..., *S): the size of its biases (C) times the gradients (..., C, *S).

    The gradients are those at the layer's output, where its biases are added. A batch
    normalisation's bias is bias - mean * weight / sqrt(variance + eps). See `fullgrad_input` for
    `scale`.

    Source: Srinivas and Fleuret 2019, https://arxiv.org/abs/1905.00780

    >>> import numpy as np
    >>> fullgrad_bias(np.ones(64), np.ones((4, 64, 56, 56))).shape
    (4, 56, 56)
    """
    check_features(gradients, biases, spatial_ndim=spatial_ndim, name="biases", per_point=False)
    return _term(add_space(biases, spatial_ndim=spatial_ndim) * gradients, spatial_ndim, scale)


def _term(contributions: Array, spatial_ndim: int, scale: Scale) -> Array:
    """The sizes of contributions (..., C, *S), stretched to [0, 1], summed over channels."""
    if scale not in ("channel", "layer"):
        raise InputError(f"expected scale 'channel' or 'layer', got {scale!r}")
    xp = namespace(contributions)
    shape, S = contributions.shape[:-spatial_ndim], contributions.shape[-spatial_ndim:]
    sizes = xp.reshape(xp.abs(contributions), (*shape, math.prod(S)))
    axes = -1 if scale == "channel" else (-2, -1)
    lowest = xp.min(sizes, axis=axes, keepdims=True)
    above = sizes - lowest
    ranges = xp.max(sizes, axis=axes, keepdims=True) - lowest + NORMALIZE_EPS
    if scale == "channel":
        # Divided and added by one product: these are the largest arrays of all, once per layer.
        maps = xp.matmul(xp.matrix_transpose(1 / ranges), above)
    else:
        maps = xp.sum(above, axis=-2, keepdims=True) / ranges
    return xp.reshape(maps, (*shape[:-1], *S))
