"""Factorization: what an image is made of, by the non-negative factors of its activations.

Each image is factorized by itself, so that no image changes another one's concepts.
"""

from functools import partial
from typing import Any, NamedTuple

from camcore._arrays import Array, cast, check_channels, namespace, relu, working_dtype
from camcore._loops import repeat
from camcore.errors import InputError
from camcore.noise import normal_noise

# How often the factors are updated unless another number is given.
DFF_ITERATIONS = 50


class Concepts(NamedTuple):
    """Where the concepts of an image are, `maps` (..., K, *S), and which channels make each of
    them, `directions` (..., K, C); neither is negative.
    """

    maps: Array
    directions: Array


def dff(
    activations: Array,
    /,
    *,
    concepts: int = 4,
    iterations: int = DFF_ITERATIONS,
    seed: int = 0,
    spatial_ndim: int = 2,
) -> Concepts:
    """Deep Feature Factorization: activations (..., C, *S) as the sum of K concepts.

    What is negative is cut off. The factors begin as `dff_start` gives them, and follow the
    multiplicative updates for the Frobenius norm so many times, the maps first. What they
    add to the scores of a linear classifier tells `concept_scores`.

    Sources: Collins, Achanta and Süsstrunk 2018, https://arxiv.org/abs/1806.10206; Lee and Seung
    2001, equation 4 of https://papers.nips.cc/paper/1861, as in scikit-learn's NMF with
    `solver="mu"`

    Raises:
        InputError: no floating-point activations, or fewer than one concept or iteration.

    >>> import numpy as np
    >>> maps, directions = dff(np.ones((2, 8, 7, 7)), concepts=3)
    >>> maps.shape, directions.shape
    ((2, 3, 7, 7), (2, 3, 8))
    """
    if iterations < 1:
        raise InputError(f"expected one iteration or more, got {iterations}")
    xp = namespace(activations)
    start = dff_start(activations, concepts=concepts, seed=seed, spatial_ndim=spatial_ndim)
    dtype, shape = activations.dtype, activations.shape
    V = relu(cast(xp, activations, start.maps.dtype))
    V = xp.reshape(V, (*shape[:-spatial_ndim], -1))  # (..., C, P)
    W = xp.reshape(start.maps, (*start.maps.shape[:-spatial_ndim], -1))  # (..., K, P)
    H = start.directions
    # In one array, as a loop repeats one.
    factors = repeat(partial(_update, xp), iterations, xp.concat([H, W], axis=-1), V)
    H, W = _parted(factors, V)
    maps = xp.reshape(W, start.maps.shape)
    return Concepts(cast(xp, maps, dtype), cast(xp, H, dtype))


def concept_scores(concepts: Concepts, weights: Array, /, *, spatial_ndim: int = 2) -> Array:
    """What each concept adds to each class's score, (..., K, N), by a linear classifier.

    `weights` (N, C) are those of a classifier that reads the mean of all points. Over the concepts
    these add up to the scores of what the factors rebuild, less the classifier's bias.

    Raises:
        InputError: the classifier reads other channels than the concepts have.

    >>> import numpy as np
    >>> concept_scores(dff(np.ones((8, 7, 7)), concepts=3), np.ones((10, 8))).shape
    (3, 10)
    """
    xp = namespace(weights)
    maps, directions = concepts
    if weights.shape[-1] != directions.shape[-1]:
        raise InputError(
            f"the classifier reads {weights.shape[-1]} channels, the concepts have "
            f"{directions.shape[-1]}"
        )
    means = xp.mean(maps, axis=tuple(range(-spatial_ndim, 0)))
    return means[..., None] * (directions @ xp.matrix_transpose(weights))


def dff_start(
    activations: Array, /, *, concepts: int, seed: int = 0, spatial_ndim: int = 2
) -> Concepts:
    """The factors that `dff` begins with: noise of a seed, of about the activations' size.

    As scikit-learn's NMF with `init="random"`, with noise that is the same in every library and
    every file.

    >>> import numpy as np
    >>> dff_start(np.ones((8, 7, 7)), concepts=2).directions.shape
    (2, 8)
    """
    xp = namespace(activations)
    if not xp.isdtype(activations.dtype, "real floating"):
        raise InputError(f"expected floating-point activations, got {activations.dtype}")
    check_channels(activations, spatial_ndim=spatial_ndim)
    if concepts < 1:
        raise InputError(f"expected one concept or more, got {concepts}")
    values = relu(cast(xp, activations, working_dtype(xp, activations.dtype)))
    axes = tuple(range(-spatial_ndim - 1, 0))
    size = xp.sqrt(xp.mean(values, axis=axes, keepdims=True) / concepts)
    *_, channels = values.shape[:-spatial_ndim]
    place = values.shape[-spatial_ndim:]
    maps = size * abs(normal_noise(values, (concepts, *place), seed=seed))
    flat = xp.reshape(size, (*values.shape[: -spatial_ndim - 1], 1, 1))
    directions = flat * abs(normal_noise(values, (concepts, channels), seed=seed + 1))
    return Concepts(maps, directions)


def _update(xp: Any, factors: Array, activations: Array) -> Array:
    """One update of each factor: H V / H H^T W, and W V^T / W W^T H."""
    V = activations
    H, W = _parted(factors, V)
    W = W * _ratio(xp, H @ V, (H @ xp.matrix_transpose(H)) @ W)
    H = H * _ratio(xp, W @ xp.matrix_transpose(V), (W @ xp.matrix_transpose(W)) @ H)
    return xp.concat([H, W], axis=-1)


def _parted(factors: Array, activations: Array) -> tuple[Array, Array]:
    """Directions (..., K, C) and maps (..., K, P), for activations (..., C, P)."""
    channels = activations.shape[-2]
    return factors[..., :channels], factors[..., channels:]


def _ratio(xp: Any, numerator: Array, denominator: Array) -> Array:
    """The quotient, with the least that float32 tells from nothing in place of a zero below."""
    return numerator / xp.where(denominator == 0, 2.0**-23, denominator)
