"""Attention: maps of transformers, from the gradients of their attention.

Floating-point arrays of any array API library; other arrays and shapes raise `InputError`.
"""

from typing import Any, Literal

from camcore._arrays import Array, agree, check_shape, floating_kernel, namespace, relu, show
from camcore.errors import InputError
from camcore.layouts import tokens_to_grid

Queries = Literal["all", "class"]


@floating_kernel
def legrad(
    gradients: Array,
    grid: tuple[Any, ...],
    /,
    *,
    prefix_tokens: int = 1,
    queries: Queries = "all",
) -> Array:
    """LeGrad, raw maps (..., *grid) of one layer: how far attending to a patch raises the score.

    `gradients` (..., heads, T, T), queries before keys, are those of a score with respect to the
    layer's attention after the softmax. Negative ones are left out, the others averaged over heads
    and queries, and the keys of the patches laid out on `grid` (see `tokens_to_grid`). The maps of
    several layers are averaged (`camcore.aggregate`), unscaled.

    In the paper the score is that of the layer's own class token, sent through the classifier, on
    which no other query of the layer bears. The score of the last layer has gradients at every
    query of the layers before; `queries` "class" takes those of the class token, the first one,
    alone.

    Source: Bousselham et al. 2024, https://arxiv.org/abs/2404.03214

    >>> import numpy as np
    >>> legrad(np.ones((4, 12, 197, 197)), (14, 14)).shape
    (4, 14, 14)
    """
    check_shape(grid, name="grid")
    if gradients.ndim < 3 or not agree(*gradients.shape[-2:]):
        raise InputError(
            f"expected gradients of an attention, (..., heads, T, T), got {show(gradients.shape)}"
        )
    if queries not in ("all", "class"):
        raise InputError(f"expected queries 'all' or 'class', got {queries!r}")
    if queries == "class":
        if prefix_tokens < 1:
            raise InputError("queries 'class' wants a class token, got prefix_tokens 0")
        gradients = gradients[..., :1, :]
    keys = namespace(gradients).mean(relu(gradients), axis=(-3, -2))
    return tokens_to_grid(keys[..., None], grid, prefix_tokens=prefix_tokens)[
        (..., 0, *(slice(None),) * len(grid))
    ]
