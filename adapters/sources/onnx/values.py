"""Values of an ONNX graph: tensors, or arrays of numbers that are known without the image.

What is known is a NumPy array: constants of the file, and sizes. Where a size is free while the
graph is traced, the array holds symbolic integers, as objects: in a tensor they would be lost.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camcore.adapters.sources.onnx.node import NotReadError

Value = Any  # a Tensor or a NumPy array

# onnx.TensorProto.DataType: whatever its precision, what is floating is computed in the model's.
FLOATING = (1, 10, 11, 16)
_WHOLE = {
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
}
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def is_known(*values: Value) -> bool:
    """Whether all of them are known without the image."""
    return all(isinstance(value, np.ndarray) for value in values)


def as_tensor(value: Value, like: Value = None) -> Tensor:
    """A value as a tensor, of the device and the precision of another where it is floating."""
    if isinstance(value, Tensor):
        return value
    if value.dtype == object:
        flat = value.reshape(-1)
        floating = any(isinstance(each, float | torch.SymFloat) for each in flat)
        dtype = torch.float32 if floating else torch.int64
        parts = [torch.scalar_tensor(each, dtype=dtype) for each in flat]
        return torch.stack(parts).reshape(value.shape)
    tensor = torch.from_numpy(np.array(value))
    if isinstance(like, Tensor):
        both_floating = like.is_floating_point() and tensor.is_floating_point()
        tensor = tensor.to(like.device, like.dtype if both_floating else tensor.dtype)
    return tensor


def operand(value: Value, other: Value) -> Any:
    """A value to compute with beside another: a single number stays one."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= np.ndim(other):
        return value.reshape(-1)[0] if value.dtype == object else value.item()
    return as_tensor(value, other)


def as_array(numbers: Iterable[Any]) -> np.ndarray[Any, Any]:
    """Sizes as a value: of integers, or of objects where some are symbolic."""
    listed = list(numbers)
    if not any(isinstance(each, _SYMBOLIC) for each in listed):
        return np.array(listed, dtype=np.int64)
    held = np.empty(len(listed), dtype=object)
    held[:] = listed
    return held


def as_ints(value: Value) -> list[Any]:
    """Numbers that must be known: sizes, axes.

    Raises:
        NotReadError: they are computed from the image.
    """
    if isinstance(value, Tensor):
        raise NotReadError("takes sizes or axes that are computed from the image's content")
    flat = np.asarray(value).reshape(-1)
    return [each if isinstance(each, _SYMBOLIC) else int(each) for each in flat]


def as_number(value: Value) -> Any:
    """A single number that must be known, None where there is none."""
    if value is None or not isinstance(value, Tensor | np.ndarray):
        return value
    if isinstance(value, Tensor):
        raise NotReadError("takes a number that is computed from the image's content")
    return value.reshape(-1)[0] if value.dtype == object else value.reshape(-1)[0].item()


def whole_type(code: int) -> torch.dtype:
    """The type of that number in `onnx.TensorProto.DataType`, one of integers or booleans."""
    if code not in _WHOLE:
        raise NotReadError(f"casts to type number {code} of ONNX, which is not read")
    return _WHOLE[code]
