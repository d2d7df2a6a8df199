"""Targets: which classes the maps are for."""

from typing import Any

from array_api_compat import is_torch_namespace

from camcore._arrays import Array, broadcasts, cast, known, namespace, show, working_dtype
from camcore.errors import InputError


def select_classes(scores: Array, class_ids: Array, /) -> Array:
    """The classes to explain, int64 (..., K): the ids asked for, the best-scoring ones for -1.

    -1 in column k of `class_ids` (..., K) stands for the class with the k-th highest of the
    `scores` (..., N), so that K times -1 gives the top K. Leading axes broadcast.

    Of equal scores the lower class comes first, in ONNX too, but not in eager torch, which promises
    no order.

    Ids are not checked against N, for that would be a branch on values.

    Raises:
        InputError: scores are not floating point, ids are not integers, or K is larger than N.

    >>> import numpy as np
    >>> scores = np.asarray([[0.1, 0.7, 0.2]])
    >>> select_classes(scores, np.asarray([[-1, -1]]))
    array([[1, 2]])
    >>> select_classes(scores, np.asarray([[0, -1]]))
    array([[0, 2]])
    """
    xp = namespace(scores, class_ids)
    if not xp.isdtype(scores.dtype, "real floating") or not xp.isdtype(class_ids.dtype, "integral"):
        raise InputError(
            f"expected floating-point scores and integer class ids, got {scores.dtype} and "
            f"{class_ids.dtype}"
        )
    asked, classes = class_ids.shape[-1:], scores.shape[-1:]
    if (
        min(scores.ndim, class_ids.ndim) < 1
        or not broadcasts(scores.shape[:-1], class_ids.shape[:-1])
        or (known(asked) and known(classes) and asked > classes)
    ):
        raise InputError(
            "expected scores (..., N) and class ids (..., K) with K at most N and leading axes "
            f"that broadcast, got {show(scores.shape)} and {show(class_ids.shape)}"
        )
    # The cast changes no order, and sorting halves is what runtimes lack.
    scores = cast(xp, scores, working_dtype(xp, scores.dtype))
    ranked = _rank(xp, scores, class_ids.shape[-1])
    class_ids = cast(xp, class_ids, xp.int64)
    return xp.where(class_ids == -1, ranked, class_ids)


def _rank(xp: Any, scores: Array, k: Any) -> Array:
    if is_torch_namespace(xp):
        # The standard's argsort becomes a stable sort, which has no ONNX translation; topk does.
        return xp.topk(scores, k, dim=-1).indices
    return cast(xp, xp.argsort(scores, axis=-1, descending=True)[..., :k], xp.int64)
