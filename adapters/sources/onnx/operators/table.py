"""The table of all operators that are read, and which of their inputs must be numbers."""

from collections.abc import Callable
from typing import Any

from camcore.adapters.sources.onnx.operators.elementwise import ELEMENTWISE
from camcore.adapters.sources.onnx.operators.products import PRODUCTS
from camcore.adapters.sources.onnx.operators.reductions import REDUCTIONS
from camcore.adapters.sources.onnx.operators.resizes import RESIZES
from camcore.adapters.sources.onnx.operators.shapes import SHAPES
from camcore.adapters.sources.onnx.operators.windows import WINDOWS

OPERATORS: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    **WINDOWS,
    **PRODUCTS,
    **REDUCTIONS,
    **RESIZES,
    **SHAPES,
}

# Operators whose inputs behind the first are sizes, axes and bounds, to be known as numbers.
_OF_NUMBERS = {
    *REDUCTIONS,
    *RESIZES,
    "Clip",
    "Dropout",
    "Expand",
    "Pad",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Trilu",
    "Unsqueeze",
}
_ALL_NUMBERS = {"ConstantOfShape", "Range"}


def wants_number(op: str, position: int) -> bool:
    """Whether the input at that position is to be numbers, not a tensor.

    >>> wants_number("Reshape", 0), wants_number("Reshape", 1), wants_number("Mul", 1)
    (False, True, False)
    """
    if op == "OneHot":
        return position == 1
    return op in _ALL_NUMBERS or (position > 0 and op in _OF_NUMBERS)
