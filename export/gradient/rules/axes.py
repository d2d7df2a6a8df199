"""What several rules share: products along one axis, and parts of one."""

from collections.abc import Sequence

import torch
from torch import Tensor

Size = int | torch.SymInt


def along_axis(axis: int, values: Tensor, matrix: Tensor) -> Tensor:
    """The product of an axis of `values`, of size O, with `matrix` (O, I)."""
    if axis == values.ndim - 1:
        return values @ matrix
    if axis == values.ndim - 2:
        return matrix.transpose(0, 1) @ values
    return (values.movedim(axis, -1) @ matrix).movedim(-1, axis)


def crop(full: Tensor, start: Sequence[int], sizes: Sequence[Size]) -> Tensor:
    """The part of `full` that begins at `start` and has these spatial sizes."""
    for axis, (first, wanted) in enumerate(zip(start, sizes, strict=True), 2):
        given = full.shape[axis]
        whole = isinstance(wanted, int) and isinstance(given, int) and wanted == given
        if not whole:
            full = full.narrow(axis, first, wanted)
    return full


def check_frozen(operator: str, output_mask: Sequence[bool]) -> None:
    if any(output_mask[1:]):
        raise AssertionError(
            f"{operator}: a parameter asks for its gradient; the tail must be frozen"
        )
