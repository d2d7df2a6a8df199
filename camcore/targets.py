"""Targets: which classes the maps are for, and what about them is explained.

Scores are (..., N), floating point, of any array API library; other arrays and shapes raise
`InputError`. All functions but `select_classes` can be differentiated where the library can.
"""

from typing import Any

from array_api_compat import device, is_torch_namespace

from camcore._arrays import (
    Array,
    agree,
    broadcasts,
    cast,
    floating_kernel,
    known,
    namespace,
    show,
    working_dtype,
)
from camcore.errors import InputError


def select_classes(scores: Array, class_ids: Array, /) -> Array:
    """The classes to explain, int64 (..., K): the ids asked for, the best-scoring ones for -1.

    -1 in column k of `class_ids` (..., K) stands for the class with the k-th highest of the
    `scores` (..., N), so that K times -1 gives the top K. Leading axes broadcast.

    Of equal scores the lower class comes first, in ONNX too, but not in eager torch, which promises
    no order.

    An id of no class, below -1 or beyond N, gives -1: an error would be a branch on values.

    Raises:
        InputError: scores are not floating point, ids are not integers, or K is larger than N.

    >>> import numpy as np
    >>> scores = np.asarray([[0.1, 0.7, 0.2]])
    >>> select_classes(scores, np.asarray([[-1, -1]]))
    array([[1, 2]])
    >>> select_classes(scores, np.asarray([[0, -1]]))
    array([[0, 2]])
    >>> select_classes(scores, np.asarray([[3, -2]]))
    array([[-1, -1]])
    """
    xp = _check(scores, class_ids)
    asked, classes = class_ids.shape[-1:], scores.shape[-1:]
    if known(asked) and known(classes) and asked > classes:
        raise InputError(
            "expected scores (..., N) and class ids (..., K) with K at most N, got "
            f"{show(scores.shape)} and {show(class_ids.shape)}"
        )
    # The cast changes no order, and sorting halves is what runtimes lack.
    scores = cast(xp, scores, working_dtype(xp, scores.dtype))
    ranked = _rank(xp, scores, class_ids.shape[-1])
    class_ids = cast(xp, class_ids, xp.int64)
    chosen = xp.where(class_ids == -1, ranked, class_ids)
    return xp.where((chosen >= 0) & (chosen < scores.shape[-1]), chosen, -1)


@floating_kernel
def probability(scores: Array, /) -> Array:
    """Each class's probability, (..., N): the softmax of the scores.

    >>> import numpy as np
    >>> probability(np.log(np.asarray([[1.0, 3.0]]))).round(3)
    array([[0.25, 0.75]])
    """
    xp = namespace(_with_classes(scores))
    powers = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True)


@floating_kernel
def rest(scores: Array, /) -> Array:
    """ReST, (..., N): 2 z - logsumexp z, the sum of each class's score and its log probability.

    Source: Cai 2025, https://arxiv.org/abs/2501.06261

    >>> import numpy as np
    >>> rest(np.zeros((1, 4))).round(3)
    array([[-1.386, -1.386, -1.386, -1.386]])
    """
    xp = namespace(_with_classes(scores))
    highest = xp.max(scores, axis=-1, keepdims=True)
    powers = xp.exp(scores - highest)
    return 2 * scores - highest - xp.log(xp.sum(powers, axis=-1, keepdims=True))


@floating_kernel
def binary(scores: Array, /) -> Array:
    """The one score z (..., 1) of a yes-or-no classifier as two classes' scores (..., 2): -z, z.

    Source: pytorch-grad-cam's BinaryClassifierOutputTarget,
    https://github.com/jacobgil/pytorch-grad-cam

    >>> import numpy as np
    >>> binary(np.asarray([[0.5], [-2.0]]))
    array([[-0.5,  0.5],
           [ 2. , -2. ]])
    """
    if scores.ndim < 1 or not agree(scores.shape[-1], 1):
        raise InputError(f"expected one score for each image, (..., 1), got {show(scores.shape)}")
    return namespace(scores).concat([-scores, scores], axis=-1)


@floating_kernel
def similarity(embeddings: Array, queries: Array, /) -> Array:
    """The cosine of the angle between an embedding and each query, (..., Q).

    Embeddings are (..., D), queries (..., Q, D), with leading axes that broadcast. One that is all
    zeros is like none.

    >>> import numpy as np
    >>> similarity(np.asarray([[3.0, 4.0]]), np.asarray([[1.0, 0.0], [0.0, 2.0]]))
    array([[0.6, 0.8]])
    """
    return dot(_unit(embeddings), _unit(_in_range(queries)))


@floating_kernel
def dot(embeddings: Array, queries: Array, /) -> Array:
    """The inner product of an embedding with each query, (..., Q); shapes as in `similarity`.

    >>> import numpy as np
    >>> dot(np.asarray([[3.0, 4.0]]), np.asarray([[1.0, 0.0], [0.0, 2.0]]))
    array([[3., 8.]])
    """
    xp = namespace(embeddings, queries)
    if (
        embeddings.ndim < 1
        or queries.ndim < 2
        or not agree(embeddings.shape[-1], queries.shape[-1])
    ):
        raise InputError(
            "expected embeddings (..., D) and queries (..., Q, D), got "
            f"{show(embeddings.shape)} and {show(queries.shape)}"
        )
    return xp.matmul(queries, embeddings[..., None])[..., 0]


def _in_range(vectors: Array) -> Array:
    """Vectors (..., D) with a largest part of one: squares leave the range of numbers sooner."""
    xp = namespace(vectors)
    largest = xp.max(xp.abs(vectors), axis=-1, keepdims=True)
    return vectors / xp.where(largest > 0, largest, 1.0)


def _unit(vectors: Array) -> Array:
    """Vectors (..., D) of length one, those of zeros as they are."""
    xp = namespace(vectors)
    squares = xp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors / xp.sqrt(xp.where(squares > 0, squares, 1.0))


def finer(scores: Array, class_ids: Array, /, *, alpha: float = 1.0, comparisons: int = 3) -> Array:
    """Finer-CAM's contrast, (..., K): a class's score less `alpha` times that of similar classes.

    For class c of `class_ids` (..., K) it is sum_d p_d (z_c - alpha z_d) / sum_d p_d over the
    `comparisons` classes d whose scores are nearest to z_c, all others if there are fewer, with p
    the softmax of the scores. The probabilities are part of what is differentiated. Ids are 0 to
    N - 1; -1 is not looked up.

    Source: Zhang et al. 2025, https://arxiv.org/abs/2501.11309, weighted as in pytorch-grad-cam's
    FinerWeightedTarget

    >>> import numpy as np
    >>> finer(np.asarray([[3.0, 1.0, 2.0]]), np.asarray([[0]]), comparisons=1)
    array([[1.]])
    """
    xp = _check(scores, class_ids)
    if comparisons < 1 or (known(scores.shape[-1:]) and scores.shape[-1] < 2):
        raise InputError(
            "expected scores of at least two classes and one comparison, got "
            f"{show(scores.shape)} and {comparisons}"
        )
    classes = scores.shape[-1]
    if known((classes,)):
        comparisons = min(comparisons, classes - 1)
    z = cast(xp, scores, working_dtype(xp, scores.dtype))[..., None, :]  # (..., 1, N)
    index = xp.arange(classes, device=device(scores))
    own = index == class_ids[..., None]  # (..., K, N)
    z_c = _pick(xp, own, z)
    # The class itself comes first, whoever has the same score.
    distances = xp.where(own, -1.0, xp.abs(z - z_c[..., None]))
    nearest = _rank(xp, -distances, comparisons + 1)[..., 1:]
    z_d = _pick(xp, index == nearest[..., None], z[..., None, :])  # (..., K, comparisons)
    # The other classes' part of the softmax cancels, and with it the danger of 0 / 0.
    contrast = xp.sum(probability(z_d) * (z_c[..., None] - alpha * z_d), axis=-1)
    return cast(xp, contrast, scores.dtype)


def _pick(xp: Any, chosen: Array, values: Array) -> Array:
    """The one chosen value of each row. A sum, for its gradient needs no scattering."""
    return xp.sum(xp.where(chosen, values, 0.0), axis=-1)


def _with_classes(scores: Array) -> Array:
    if scores.ndim < 1 or 0 in known(scores.shape[-1:]):
        raise InputError(
            f"expected scores (..., N) of at least one class, got {show(scores.shape)}"
        )
    return scores


def _check(scores: Array, class_ids: Array) -> Any:
    """The namespace of floating-point scores (..., N) and integer ids (..., K) that fit."""
    xp = namespace(scores, class_ids)
    if not xp.isdtype(scores.dtype, "real floating") or not xp.isdtype(class_ids.dtype, "integral"):
        raise InputError(
            f"expected floating-point scores and integer class ids, got {scores.dtype} and "
            f"{class_ids.dtype}"
        )
    if min(scores.ndim, class_ids.ndim) < 1 or not broadcasts(
        scores.shape[:-1], class_ids.shape[:-1]
    ):
        raise InputError(
            "expected scores (..., N) and class ids (..., K) with leading axes that broadcast, got "
            f"{show(scores.shape)} and {show(class_ids.shape)}"
        )
    return xp


def _rank(xp: Any, scores: Array, k: Any) -> Array:
    if is_torch_namespace(xp):
        # The standard's argsort becomes a stable sort, which has no ONNX translation; topk does.
        return xp.topk(scores, k, dim=-1).indices
    return cast(xp, xp.argsort(scores, axis=-1, descending=True)[..., :k], xp.int64)
