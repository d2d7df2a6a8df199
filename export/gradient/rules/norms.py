"""Rules of normalisations with fixed statistics, or with those of one image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camcore.export.gradient.rules.axes import check_frozen


def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor | None,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Input gradient of batch norm with fixed statistics: G weight / sqrt(running_var + eps).

    Instance norm arrives here as well: one batch, whose channels are those of all images, with
    statistics of its own.
    """
    check_frozen("batch norm", output_mask)
    per_channel = (-1, *[1] * (grad.ndim - 2))
    if not train and running_var is not None:
        scale = torch.rsqrt(running_var + eps)
        if weight is not None:
            scale = scale * weight
        return grad * scale.reshape(per_channel), None, None
    if not isinstance(x.shape[0], int) or x.shape[0] != 1:
        raise NotImplementedError(
            "batch norm with batch statistics mixes the images of a batch: no image has a gradient "
            "of its own"
        )
    if weight is not None:
        grad = grad * weight.reshape(per_channel)
    space = list(range(2, x.ndim))
    centred = x - x.mean(space, keepdim=True)
    inverse_deviation = torch.rsqrt((centred * centred).mean(space, keepdim=True) + eps)
    normed = centred * inverse_deviation
    along = (grad * normed).mean(space, keepdim=True)
    grad = grad - grad.mean(space, keepdim=True) - normed * along
    return grad * inverse_deviation, None, None


def group_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse_deviation: Tensor,
    weight: Tensor | None,
    images: Any,
    channels: Any,
    points: Any,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Input gradient of group norm, whose statistics are those of each image's groups: with the
    normed X, (G weight - mean(G weight) - X mean(G weight X)) / deviation, means over a group.
    """
    check_frozen("group norm", output_mask)
    if weight is not None:
        grad = grad * weight.reshape(-1, *[1] * (grad.ndim - 2))
    grouped = (x.shape[0], groups, -1)
    mean, inverse_deviation = mean[..., None], inverse_deviation[..., None]
    normed = (x.reshape(grouped) - mean) * inverse_deviation
    given = grad.reshape(grouped)
    along = (given * normed).mean(-1, keepdim=True)
    found = (given - given.mean(-1, keepdim=True) - normed * along) * inverse_deviation
    return found.reshape(x.shape), None, None
