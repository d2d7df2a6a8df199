"""Projection: activations seen along their first principal component.

Features are (..., C, *S), floating point, of any array API library: every point of space is one
sample of C channels. Other arrays and shapes raise `InputError`. A feature that is NaN or infinite
makes the map of its own image NaN throughout and leaves the others alone.

A principal component has no sign of its own, and what a LAPACK returns differs between builds. Here
the map goes up where the mean over channels goes up: their correlation is positive. Where the mean
knows no direction (a correlation of nearly nothing, as behind a LayerNorm without weights), the
value farthest from zero is positive.

Graph formats have no singular value decomposition, so the component is found by squaring a Gram
matrix twelve times: sixteen thousand steps of power iteration for the price of twelve small matrix
products, and right to 1e-6 even where the second singular value is 0.9995 of the first. The squares
are float64, whatever the features are: in float32 the rounding of the first square is as large as
the gap. JAX has float64 only with `jax_enable_x64`; without it these functions raise `InputError`.
"""

import math
from typing import Any, Literal

from array_api_compat import device

from camcore._arrays import (
    Array,
    add_space,
    cast,
    check_channels,
    check_features,
    divide,
    floating_kernel,
    known,
    namespace,
)
from camcore.errors import InputError

Gram = Literal["space", "channels"]

# Squares of a matrix scaled to an eigenvalue of 1 to n stay below n**64: finite in float64 up to
# n = 2**15. Their largest entry is then at least 1 / n, unless all are zeros.
_ROUNDS, _SQUARES_IN_A_ROUND, _STEPS = 2, 6, 4
_MOST_POINTS_TO_SQUARE, _KRYLOV_DIMENSIONS = 512, 32
_LEAST_ENTRY = 2.0**-16
_UNCORRELATED = 1e-3


@floating_kernel
def first_component(
    features: Array, /, *, spatial_ndim: int = 2, gram: Gram | None = None
) -> Array:
    """The features (..., C, *S) projected on their first principal component: maps (..., *S).

    Each channel is centred over space first. Values have the features' unit; constant features give
    zeros. The sign is described above.

    `gram` says which matrix of inner products is squared, which costs its size to the third: that
    of all points of `space` or that of all `channels`. None takes the smaller one where all sizes
    are known, and channels where a size is symbolic while a graph is traced.

    Source: the first right singular vector of the centred features, as in Muhammad and Yeasin 2020,
    https://arxiv.org/abs/2008.00299

    >>> import numpy as np
    >>> features = np.asarray([[0.0, 1.0, 5.0], [1.0, 1.0, 1.0]])
    >>> first_component(features, spatial_ndim=1)
    array([-2., -1.,  3.])
    """
    centred = _centre(features, spatial_ndim)
    maps = _project(centred, gram)
    return _as_maps(_orient(maps, centred, _sum_of_squares(maps)), features, spatial_ndim)


@floating_kernel
def smooth_by_component(
    activations: Array,
    weights: Array,
    /,
    *,
    spatial_ndim: int = 2,
    per_point: bool = False,
    gram: Gram | None = None,
) -> Array:
    """Weighted activations on their first principal component: raw maps (..., *S).

    It takes the place of their sum over channels, to smooth any method that is a weighted sum.
    `weights` are (..., C), or (..., C, *S) with `per_point`. See `first_component` for the sign and
    for `gram`.

    Source: pytorch-grad-cam's option eigen_smooth, https://github.com/jacobgil/pytorch-grad-cam

    >>> import numpy as np
    >>> smooth_by_component(np.ones((4, 3, 7, 7)), np.ones((4, 3))).shape
    (4, 7, 7)
    """
    check_features(
        activations, weights, spatial_ndim=spatial_ndim, name="weights", per_point=per_point
    )
    weights = weights if per_point else add_space(weights, spatial_ndim=spatial_ndim)
    return first_component(weights * activations, spatial_ndim=spatial_ndim, gram=gram)


@floating_kernel
def eigencam(activations: Array, /, *, spatial_ndim: int = 2, gram: Gram | None = None) -> Array:
    """Eigen-CAM, raw maps (..., *S): the activations on their first principal component.

    It looks at no class. See `first_component` for the sign and for `gram`.

    Source: Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299, with channels centred over
    space as in pytorch-grad-cam's EigenCAM

    >>> import numpy as np
    >>> eigencam(np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    return first_component(activations, spatial_ndim=spatial_ndim, gram=gram)


@floating_kernel
def eigengradcam(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2, gram: Gram | None = None
) -> Array:
    """Eigen-Grad-CAM, raw maps (..., *S): gradient times activation on their first component.

    See `first_component` for the sign and for `gram`.

    Source: pytorch-grad-cam's EigenGradCAM, https://github.com/jacobgil/pytorch-grad-cam

    >>> import numpy as np
    >>> eigengradcam(np.ones((4, 3, 7, 7)), np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    return first_component(gradients * activations, spatial_ndim=spatial_ndim, gram=gram)


@floating_kernel
def segeigencam(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2, gram: Gram | None = None
) -> Array:
    """Seg-Eigen-CAM, raw maps (..., *S): activations times the gradient's size, on their component.

    The sign is the paper's own: the value farthest from zero is positive. See `first_component` for
    `gram`.

    Source: Chung and Ying 2025, equations 10 to 13, https://doi.org/10.3390/app15137562

    >>> import numpy as np
    >>> segeigencam(np.ones((4, 3, 7, 7)), np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    features = namespace(activations, gradients).abs(gradients) * activations
    maps = _project(_centre(features, spatial_ndim), gram)
    return _as_maps(_turn(maps, _balance(maps)), features, spatial_ndim)


@floating_kernel
def kpcacam(
    activations: Array, /, *, spatial_ndim: int = 2, gamma: float | None = None, coef: float = 1.0
) -> Array:
    """KPCA-CAM, raw maps (..., *S): the first kernel principal component of the activations.

    The kernel of two points is tanh(gamma x . y + coef), with x and y centred over space and
    `gamma` 1 / C unless given; its matrix is centred both ways, and the map is the eigenvector of
    the largest eigenvalue times the eigenvalue's square root. It looks at no class. The sign is
    `first_component`'s.

    The matrix has a row for each point of space. Up to 512 points, and where the size is symbolic,
    it is squared like the others. Of more points the eigenvector is sought in a Krylov space of 32
    dimensions, right to 1e-5 where the second eigenvalue is at most 0.95 of the first.

    Source: Karmani et al. 2024, https://arxiv.org/abs/2410.00267; the kernel's parameters are
    pytorch-grad-cam's

    >>> import numpy as np
    >>> kpcacam(np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    xp = namespace(activations)
    centred = _centre(activations, spatial_ndim)
    gamma = 1 / centred.shape[-2] if gamma is None else gamma
    kernel = xp.tanh(gamma * xp.matmul(xp.matrix_transpose(centred), centred) + coef)
    # Centring removes any constant. Taken off first, it leaves no rounding of constant features.
    kernel = kernel - kernel[..., :1, :1]
    rows = xp.mean(kernel, axis=-1, keepdims=True)
    kernel = kernel - rows - xp.matrix_transpose(rows) + xp.mean(rows, axis=-2, keepdims=True)
    maps = _first_eigenvector(kernel)
    most = xp.sqrt(_sum_of_squares(maps) * _sum_of_squares(centred))
    return _as_maps(_orient(maps, centred, most), activations, spatial_ndim)


def _centre(features: Array, spatial_ndim: int) -> Array:
    """(..., C, *S) as (..., C, P) in float64, each channel's mean over space taken off."""
    check_channels(features, spatial_ndim=spatial_ndim)
    xp = namespace(features)
    points = math.prod(features.shape[-spatial_ndim:])
    samples = xp.reshape(features, (*features.shape[:-spatial_ndim], points))
    samples = cast(xp, samples, xp.float64)
    if samples.dtype != xp.float64:
        raise InputError(
            f"expected a library with float64, got {samples.dtype} from it; on JAX set "
            "jax_enable_x64"
        )
    return samples - xp.mean(samples, axis=-1, keepdims=True)


def _as_maps(rows: Array, features: Array, spatial_ndim: int) -> Array:
    """(..., 1, P) as (..., *S)."""
    shape = (*features.shape[: -1 - spatial_ndim], *features.shape[-spatial_ndim:])
    return namespace(rows).reshape(rows, shape)


def _project(centred: Array, gram: Gram | None) -> Array:
    """(..., C, P) on the first principal component, of any sign: (..., 1, P)."""
    xp = namespace(centred)
    by_points = xp.matrix_transpose(centred)
    if _choose(gram, *centred.shape[-2:]) == "space":
        products = xp.matmul(by_points, centred)
        return _as_long_as_root(_dominant(products), products)
    return xp.matmul(_unit(_dominant(xp.matmul(centred, by_points))), centred)


def _choose(gram: Gram | None, channels: Any, points: Any) -> Gram:
    if gram not in (None, "space", "channels"):
        raise InputError(f"expected gram 'space', 'channels' or None, got {gram!r}")
    if gram is not None:
        return gram
    return "space" if len(known((channels, points))) == 2 and points < channels else "channels"


def _dominant(matrix: Array) -> Array:
    """The eigenvector (..., 1, n) of the largest eigenvalue of matrices without negative ones.

    It has any length; zeros stay zeros.
    """
    xp = namespace(matrix)
    matrix = divide(matrix, _largest(matrix))
    for _ in range(_ROUNDS):
        for _ in range(_SQUARES_IN_A_ROUND):
            matrix = xp.matmul(matrix, matrix)
        matrix = matrix / xp.clip(_largest(matrix), min=_LEAST_ENTRY)
    vector = _start(matrix)
    for _ in range(_STEPS):
        vector = xp.matmul(vector, matrix)
    return vector


def _largest(matrix: Array) -> Array:
    """The largest entry (..., 1, 1): divided by it, a matrix's first eigenvalue is 1 to n."""
    return namespace(matrix).max(matrix, axis=(-2, -1), keepdims=True)


def _start(matrix: Array) -> Array:
    """A vector (1, n) so irregular that no eigenvector is orthogonal to it but by design."""
    xp = namespace(matrix)
    index = xp.arange(1, matrix.shape[-1] + 1, device=device(matrix))
    return xp.sin(cast(xp, index * index, matrix.dtype))[None, :]


def _unit(vector: Array) -> Array:
    """The vector (..., 1, n) of length one; zeros stay zeros."""
    return divide(vector, namespace(vector).sqrt(_sum_of_squares(vector)))


def _first_eigenvector(kernel: Array) -> Array:
    """Of symmetric (..., n, n), the eigenvector (..., 1, n) of the largest eigenvalue, as long as
    the eigenvalue's root.
    """
    xp = namespace(kernel)
    if known(kernel.shape[-1:]) and kernel.shape[-1] > _MOST_POINTS_TO_SQUARE:
        basis = _krylov_basis(kernel)
        inside = xp.matmul(xp.matmul(basis, kernel), xp.matrix_transpose(basis))
        vector = xp.matmul(_dominant(_without_negatives(inside)), basis)
    else:
        vector = _dominant(_without_negatives(kernel))
    return _as_long_as_root(vector, kernel)


def _as_long_as_root(vector: Array, matrix: Array) -> Array:
    """The eigenvector (..., 1, n) as long as its eigenvalue's root; zeros where that is zero."""
    xp = namespace(vector)
    image = xp.matmul(vector, matrix)
    # The eigenvalue times the vector's square; rounding may leave it below zero.
    product = xp.sum(image * vector, axis=-1, keepdims=True)
    return divide(image, xp.sqrt(xp.clip(product, min=0)))


def _without_negatives(matrix: Array) -> Array:
    """The same eigenvectors in the same order, with the matrix's norm added to the eigenvalues."""
    xp = namespace(matrix)
    index = xp.arange(matrix.shape[-1], device=device(matrix))
    identity = cast(xp, index[:, None] == index, matrix.dtype)
    return matrix + xp.sqrt(_sum_of_squares(matrix)) * identity


def _krylov_basis(matrix: Array) -> Array:
    """Orthonormal rows (..., 32, n) that span a vector's first 32 images."""
    xp = namespace(matrix)
    basis = _unit(xp.matmul(_start(matrix), matrix))
    for _ in range(_KRYLOV_DIMENSIONS - 1):
        image = xp.matmul(basis[..., -1:, :], matrix)
        for _ in range(2):  # once leaves what rounding has left of the others
            image = image - xp.matmul(xp.matmul(image, xp.matrix_transpose(basis)), basis)
        basis = xp.concat([basis, _unit(image)], axis=-2)
    return basis


def _orient(maps: Array, centred: Array, most: Array) -> Array:
    """Maps (..., 1, P) with the sign that the features (..., C, P) give them; see the top.

    `most` (..., 1, 1) is what their agreement is measured against.
    """
    xp = namespace(maps)
    agreement = xp.sum(maps * xp.sum(centred, axis=-2, keepdims=True), axis=-1, keepdims=True)
    uncorrelated = xp.abs(agreement) <= _UNCORRELATED * most
    return _turn(maps, xp.where(uncorrelated, _balance(maps), agreement))


def _balance(maps: Array) -> Array:
    """Positive (..., 1, 1) where the maps' (..., 1, P) value farthest from zero is positive."""
    xp = namespace(maps)
    return xp.max(maps, axis=-1, keepdims=True) + xp.min(maps, axis=-1, keepdims=True)


def _turn(maps: Array, direction: Array) -> Array:
    return namespace(maps).where(direction < 0, -maps, maps)


def _sum_of_squares(matrix: Array) -> Array:
    return namespace(matrix).sum(matrix * matrix, axis=(-2, -1), keepdims=True)
