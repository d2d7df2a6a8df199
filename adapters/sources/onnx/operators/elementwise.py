"""Elementwise: operators that take each element for itself."""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.values import (
    FLOATING,
    Value,
    as_number,
    as_tensor,
    is_known,
    operand,
    whole_type,
)

Function = Callable[..., Any]


def _unary(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda node, x: function(as_tensor(x))


def _of_sizes(
    function: Callable[[Any], Any], on_tensor: Callable[[Tensor], Tensor], on_array: Function
) -> Function:
    """Of what is made of sizes as well, element by element.

    Without tensors, for while a graph is traced these have no values.
    """

    def apply(node: Node, x: Value) -> Value:
        if not is_known(x):
            return on_tensor(x)
        if x.dtype != object:
            return np.asarray(on_array(x), dtype=x.dtype)
        return np.vectorize(function, otypes=[object])(x)

    return apply


def _binary(on_tensors: Function, on_arrays: Function) -> Function:
    def apply(node: Node, x: Value, y: Value) -> Value:
        if is_known(x, y):
            with np.errstate(all="ignore"):
                return np.asarray(on_arrays(x, y))
        return on_tensors(operand(x, y), operand(y, x))

    return apply


def _variadic(on_tensors: Function, on_arrays: Function) -> Function:
    def apply(node: Node, first: Value, *others: Value) -> Value:
        result = first
        for value in others:
            if is_known(result, value):
                result = np.asarray(on_arrays(result, value))
            else:
                result = on_tensors(as_tensor(result, value), as_tensor(value, result))
        return result

    return apply


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point()
    return isinstance(value, int | torch.SymInt | np.integer)


def _divided(x: Any, y: Any) -> Any:
    """Integers are divided towards zero."""
    if not (_is_whole(x) and _is_whole(y)):
        return x / y
    return torch.div(torch.as_tensor(x), y, rounding_mode="trunc")


def _divided_arrays(x: Value, y: Value) -> Value:
    if object in (x.dtype, y.dtype):
        # Sizes, which are not negative.
        return x // y if all(map(_is_whole, [*x.reshape(-1), *y.reshape(-1)])) else x / y
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        return np.trunc(x / y).astype(x.dtype)
    return x / y


def _modulo(node: Node, x: Value, y: Value) -> Value:
    """The remainder, of the divisor's sign; of the dividend's with `fmod`."""
    pair = (torch.fmod, np.fmod) if node.get("fmod", 0) else (torch.remainder, operator.mod)
    if is_known(x, y):
        return np.asarray(pair[1](x, y))
    return pair[0](as_tensor(x, y), as_tensor(y, x))


def _power(node: Node, x: Value, y: Value) -> Value:
    """The result has the type of the base."""
    if is_known(x, y):
        return np.asarray(np.power(x, y), dtype=x.dtype)
    x = as_tensor(x, y)
    return (x ** operand(y, x)).to(x.dtype)


def _clip(node: Node, x: Value, low: Value = None, high: Value = None) -> Value:
    """Bounds are attributes before opset 11 and inputs since."""
    low = node.get("min") if low is None else low
    high = node.get("max") if high is None else high
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.clamp(
            as_tensor(x), *(None if b is None else as_tensor(b) for b in (low, high))
        )
    low, high = as_number(low), as_number(high)
    if low is None and high is None:
        return x
    if is_known(x):
        return np.clip(x, low, high)
    if low == 0 and (high is None or high >= torch.finfo(torch.float32).max):
        return F.relu(x)
    if low is None or high is None or low > high or not x.is_floating_point():
        return torch.clamp(x, low, high)
    return F.hardtanh(x, low, high)


def _cast(node: Node, x: Value) -> Value:
    """Whatever the precision of what is floating, it stays the model's."""
    return _cast_to(node.get("to"), x)


def _cast_to(code: int, x: Value) -> Value:
    floating = code in FLOATING
    if not is_known(x):
        if floating:
            return x if x.is_floating_point() else x.to(torch.float32)
        return x.to(whole_type(code))
    if x.dtype == object:
        return np.vectorize(_symbolic_cast(floating), otypes=[object])(x)
    if floating:
        return x.astype(np.float32)
    return x.astype(str(whole_type(code)).removeprefix("torch."))


def _symbolic_cast(floating: bool) -> Callable[[Any], Any]:
    if floating:
        return torch.sym_float
    return lambda value: value if _is_whole(value) else torch.sym_int(value)


def _cast_like(node: Node, x: Value, like: Value) -> Value:
    like = as_tensor(like)
    if like.is_floating_point():
        return _cast_to(FLOATING[0], x)
    return as_tensor(x).to(like.dtype)


def _where(node: Node, condition: Value, x: Value, y: Value) -> Value:
    if is_known(condition, x, y):
        return np.where(condition.astype(bool), x, y)
    x, y = as_tensor(x, y), as_tensor(y, x)
    return torch.where(as_tensor(condition, x).bool(), x, y)


def _prelu(node: Node, x: Value, slope: Value) -> Value:
    return torch.where(x >= 0, x, x * as_tensor(slope, x))


def _thresholded(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


def _shrunk(node: Node, x: Tensor) -> Tensor:
    bias, bound = node.get("bias", 0.0), node.get("lambd", 0.5)
    inside = torch.where(x > bound, x - bias, torch.zeros_like(x))
    return torch.where(x < -bound, x + bias, inside)


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return F.hardtanh(x * alpha + beta, 0.0, 1.0)


def _selu(node: Node, x: Tensor) -> Value:
    alpha, gamma = node.get("alpha", 1.6732632), node.get("gamma", 1.0507010)
    return gamma * torch.where(x > 0, x, alpha * (torch.exp(x.clamp(max=0)) - 1))


def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


def _softmax(function: Callable[..., Tensor]) -> Function:
    """Before opset 13 all axes from `axis` on are one."""

    def apply(node: Node, x: Value) -> Tensor:
        x = as_tensor(x)
        if node.opset >= 13:
            return function(x, dim=node.get("axis", -1))
        axis = node.get("axis", 1) % x.ndim
        if axis == x.ndim - 1:
            return function(x, dim=-1)
        return function(x.flatten(axis), dim=-1).reshape(x.shape)

    return apply


def _hardmax(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", -1 if node.opset >= 13 else 1) % x.ndim
    flat = x if node.opset >= 13 or axis == x.ndim - 1 else x.flatten(axis)
    at = axis if flat is x else flat.ndim - 1
    best = flat.argmax(at, keepdim=True)
    ones = torch.zeros_like(flat).scatter(at, best, 1.0)
    return ones.reshape(x.shape)


ELEMENTWISE: dict[str, Function] = {
    "Abs": _of_sizes(abs, torch.abs, np.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _binary(operator.add, operator.add),
    "And": _binary(torch.logical_and, np.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _of_sizes(math.ceil, torch.ceil, np.ceil),
    "Celu": lambda node, x: F.celu(x, node.get("alpha", 1.0)),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "Div": _binary(_divided, _divided_arrays),
    "Elu": lambda node, x: F.elu(x, node.get("alpha", 1.0)),
    "Equal": _binary(operator.eq, operator.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _of_sizes(math.floor, torch.floor, np.floor),
    "Gelu": _gelu,
    "Greater": _binary(operator.gt, operator.gt),
    "GreaterOrEqual": _binary(operator.ge, operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, x: F.hardswish(x),
    "Hardmax": _hardmax,
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "Less": _binary(operator.lt, operator.lt),
    "LessOrEqual": _binary(operator.le, operator.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(F.log_softmax),
    "Max": _variadic(torch.maximum, np.maximum),
    "Mean": lambda node, *xs: sum(as_tensor(x) for x in xs) / len(xs),
    "Min": _variadic(torch.minimum, np.minimum),
    "Mish": lambda node, x: F.mish(x),
    "Mod": _modulo,
    "Mul": _binary(operator.mul, operator.mul),
    "Neg": _of_sizes(operator.neg, torch.neg, np.negative),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or, np.logical_or),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(F.relu),
    "Round": _unary(torch.round),
    "Selu": _selu,
    "Shrink": _shrunk,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Softmax": _softmax(F.softmax),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _of_sizes(math.sqrt, torch.sqrt, np.sqrt),
    "Sub": _binary(operator.sub, operator.sub),
    "Sum": _variadic(operator.add, operator.add),
    "Swish": _swish,
    "Tan": _unary(torch.tan),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": _thresholded,
    "Where": _where,
    "Xor": _binary(torch.logical_xor, np.logical_xor),
}
