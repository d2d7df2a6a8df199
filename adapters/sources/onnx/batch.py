"""Batch: a file that is made for one image, made to take any number of them.

What stands in the way are shapes of one image, which the file holds as numbers. Runs of single
images beside a run of them all show where in each tensor the batch is, and so which of the numbers
is to grow.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camcore.adapters.sources.onnx.model import OnnxModel
from camcore.adapters.sources.onnx.module import Operator, Rows
from camcore.adapters.sources.onnx.values import is_known

# Of the operators that take a shape, where it stands among their inputs.
_SHAPES = {"Reshape": 1, "Expand": 1, "Resize": 3}


def free_batch(model: OnnxModel, images: Tensor) -> None:
    """Let a model that is made for one image take several, where its tensors tell how.

    Whether it then answers for each as it does for one is for the proof to see.

    Args:
        images: several, (B, C, H, W), each with another content.
    """
    operators = [module for module in model.modules() if isinstance(module, Operator)]
    alone: dict[nn.Module, list[Sequence[Any]]] = {each: [] for each in operators}
    results: dict[nn.Module, tuple[int, ...]] = {}

    def note(operator: nn.Module, values: Any, result: Any) -> None:
        alone[operator].append(values)
        results[operator] = _shape(result)

    def adapt(operator: nn.Module, values: Any) -> None:
        assert isinstance(operator, Operator)
        pairs = zip(alone[operator][0], values, strict=True)
        axis = next((a for a in (_grown(*pair) for pair in pairs) if a is not None), None)
        if axis is not None and operator.node.op == "Concat":
            operator.repeated = axis
        elif axis is not None and _is_fixed(operator, alone[operator][0], values):
            each = [given[0] for given in alone[operator]]
            operator.rows = _rows(operator.node.op, axis, each, values[0], results[operator])

    with torch.no_grad():
        for image in torch.split(images, 1):
            _run_hooked(operators, lambda each: each.register_forward_hook(note), model, image)
        _run_hooked(operators, lambda each: each.register_forward_pre_hook(adapt), model, images)


def _is_fixed(operator: Operator, one: Sequence[Any], several: Sequence[Any]) -> bool:
    """Whether an operator takes a shape that is the same for one image and for several."""
    if operator.node.op not in _SHAPES:
        return False
    if operator.number(_SHAPES[operator.node.op]) is not None:
        return True
    return len(several) > 1 and _same(one[-1], several[-1])


def _same(one: Any, other: Any) -> bool:
    return is_known(one, other) and np.array_equal(one, other)


def _run_hooked(
    operators: Sequence[Operator], hook: Callable[[Operator], Any], model: nn.Module, image: Tensor
) -> None:
    handles = [hook(operator) for operator in operators]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _grown(one: Any, several: Any) -> int | None:
    """The axis that is larger for several images than for one."""
    pairs = enumerate(zip(_shape(one), _shape(several), strict=False))
    return next((axis for axis, (less, more) in pairs if more > less), None)


def _rows(
    op: str, axis: int, each: Sequence[Tensor], together: Tensor, result: tuple[int, ...]
) -> Rows | None:
    """Which size of a shape grows with the batch, for the values of each image and of them all."""
    given = _shape(each[0])
    if op == "Reshape":
        # The batch may share the axis with another: image after image, or row by row of each.
        after = torch.cat(list(each), axis)
        rows = torch.stack(list(each), axis + 1).flatten(axis, axis + 1)
        row_by_row = _distance(rows, together) < _distance(after, together)
        before = math.prod(given[: axis + 1] if row_by_row else given[:axis])
        place = batch_place(result, before)
    else:
        place = len(result) - len(given) + axis
    return None if place is None else Rows(_SHAPES[op], result, place, axis, given[axis])


def _distance(one: Tensor, other: Tensor) -> float:
    """How far apart they are; not at all but for rounding, where they are in the same order."""
    return float((one.double() - other.double()).abs().max())


def batch_place(shape: Sequence[int], before: int) -> int | None:
    """The axis of a shape of one image that the batch falls into, with so many elements before it.

    An axis of one if there is such; else the batch is put to the axis that begins there, or to the
    one that ends there if the other is the last, for that holds the features.

    >>> batch_place((17, 1, 3, 16), 17), batch_place((17, 2, 8), 17), batch_place((17, 16), 17)
    (1, 1, 0)
    """
    begins = [n for n in range(len(shape)) if math.prod(shape[:n]) == before]
    ones = [n for n in begins if shape[n] == 1]
    if ones:
        return ones[0]
    if begins and (begins[0] < len(shape) - 1 or begins[0] == 0):
        return begins[0]
    ends = [n for n in range(len(shape)) if math.prod(shape[: n + 1]) == before]
    return ends[0] if ends else None
