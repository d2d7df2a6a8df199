"""Layouts: activations of other shapes as (..., C, *S)."""

import math
from typing import Any

from camcore._arrays import Array, agree, check_shape, known, namespace, show
from camcore.errors import InputError


def channels_last_to_first(x: Array, /, *, spatial_ndim: int = 2) -> Array:
    """(..., *S, C) as (..., C, *S): for Swin and other models that keep channels last.

    Raises:
        InputError: too few axes.

    >>> import numpy as np
    >>> channels_last_to_first(np.ones((4, 7, 7, 768))).shape
    (4, 768, 7, 7)
    """
    xp = namespace(x)
    if not 0 < spatial_ndim < x.ndim:
        raise InputError(
            f"expected (..., *S, C) with {spatial_ndim} spatial axes, got {show(x.shape)}"
        )
    return xp.moveaxis(x, -1, -1 - spatial_ndim)


def tokens_to_grid(tokens: Array, grid: tuple[Any, ...], /, *, prefix_tokens: int = 1) -> Array:
    """Tokens (..., T, C) as (..., C, *grid): for ViT and other models with a sequence of patches.

    `prefix_tokens` (class and register tokens) at the front are left out; the others fill `grid`,
    usually (height, width) in patches, row by row.

    Raises:
        InputError: too few axes, or T is not prefix_tokens plus the number of grid points.

    >>> import numpy as np
    >>> tokens_to_grid(np.ones((4, 1 + 14 * 14, 768)), (14, 14)).shape
    (4, 768, 14, 14)
    """
    xp = namespace(tokens)
    check_shape(grid, name="grid")
    points = math.prod(grid)
    if tokens.ndim < 2 or prefix_tokens < 0 or not agree(tokens.shape[-2], prefix_tokens + points):
        raise InputError(
            f"expected tokens (..., T, C) with T = {prefix_tokens} prefix tokens + {points} of "
            f"grid {show(grid)}, got {show(tokens.shape)}; give the model's prefix_tokens and grid"
        )
    if any(length < 1 for length in known(grid)):
        raise InputError(f"expected a grid of positive integers, got {show(grid)}")
    channels_first = xp.matrix_transpose(tokens[..., prefix_tokens:, :])
    return xp.reshape(channels_first, (*channels_first.shape[:-1], *grid))
