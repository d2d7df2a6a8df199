"""Batch: a file that is made for one image, made to take any number of them.

What stands in the way are shapes of one image, which the file holds as numbers. A run of one image
and a run of several show where in each tensor the batch is, and so which of the numbers it is.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camcore.adapters.sources.onnx.model import OnnxModel
from camcore.adapters.sources.onnx.module import Operator, Rows

# Of the operators that take a shape, where it stands among their inputs.
_SHAPES = {"Reshape": 1, "Expand": 1, "Resize": 3}

Shapes = tuple[list[tuple[int, ...]], tuple[int, ...]]


def free_batch(model: OnnxModel, image: Tensor, images: Tensor) -> None:
    """Let a model that is made for one image take several, where its shapes tell how.

    Whether it then answers for each as it does for one is for the proof to see.

    Args:
        image: one image (1, C, H, W).
        images: several.
    """
    operators = [module for module in model.modules() if isinstance(module, Operator)]
    of_one: dict[Operator, Shapes] = {}

    def note(operator: nn.Module, values: Any, result: Any) -> None:
        assert isinstance(operator, Operator)
        of_one[operator] = [_shape(value) for value in values], _shape(result)

    def adapt(operator: nn.Module, values: Any) -> None:
        assert isinstance(operator, Operator)
        given, result = of_one[operator]
        axis = next((a for a in map(_grown, given, map(_shape, values)) if a is not None), None)
        if axis is not None and operator.node.op in _SHAPES:
            operator.rows = _rows(operator, axis, given[0], result)
        elif axis is not None and operator.node.op == "Concat":
            operator.repeated = axis

    with torch.no_grad():
        _run_hooked(operators, lambda each: each.register_forward_hook(note), model, image)
        _run_hooked(operators, lambda each: each.register_forward_pre_hook(adapt), model, images)


def _run_hooked(
    operators: list[Operator], hook: Callable[[Operator], Any], model: nn.Module, image: Tensor
) -> None:
    handles = [hook(operator) for operator in operators]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _grown(one: tuple[int, ...], several: tuple[int, ...]) -> int | None:
    """The axis that is larger for several images than for one."""
    pairs = enumerate(zip(one, several, strict=False))
    return next((axis for axis, (less, more) in pairs if more > less), None)


def _rows(
    operator: Operator, axis: int, given: tuple[int, ...], result: tuple[int, ...]
) -> Rows | None:
    """Which size of a shape is the batch's: that before which there is as much as in the input."""
    slot = _SHAPES[operator.node.op]
    if operator.number(slot) is None:
        return None
    if operator.node.op == "Reshape":
        before = math.prod(given[:axis])
        places = (n for n in range(len(result)) if math.prod(result[:n]) == before)
        place = next(places, None)
    else:
        place = len(result) - len(given) + axis
    if place is None:
        return None
    return Rows(slot, result, place, axis, given[axis])
