"""Resizes: along one axis after the other, each a linear map of that axis.

Where PyTorch has the same rule its operator is used. All others are a product with the matrix of
the rule, for sizes that are known.

Source: https://onnx.ai/onnx/operators/onnx__Resize.html
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from camcore.adapters.sources.onnx.node import Node, NotReadError
from camcore.adapters.sources.onnx.values import Value, as_ints

_TORCH_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class _Rule:
    """How a point of the result finds its place on the input's axis, and what is taken there."""

    mode: str
    place: str
    rounding: str
    cubic: float
    inside_only: bool


def _rule(node: Node) -> _Rule:
    new = node.op == "Resize" and node.opset >= 11
    return _Rule(
        mode=node.get("mode", "nearest"),
        place=node.get("coordinate_transformation_mode", "half_pixel" if new else "asymmetric"),
        rounding=node.get("nearest_mode", "round_prefer_floor" if new else "floor"),
        cubic=node.get("cubic_coeff_a", -0.75),
        inside_only=bool(node.get("exclude_outside", 0)),
    )


def _resize(node: Node, x: Tensor, *more: Value) -> Tensor:
    scales, sizes = _wanted(node, more)
    if node.get("antialias", 0):
        raise NotReadError("resizes with antialias, which is not read")
    if sizes is not None:
        return _to_sizes(node, x, as_ints(sizes))
    if scales is None or not isinstance(scales, np.ndarray):
        raise NotReadError("resizes by scales that are not known")
    axes = [axis % x.ndim for axis in node.get("axes", range(x.ndim))]
    factors: list[Any] = [1.0] * x.ndim
    for axis, factor in zip(axes, scales.reshape(-1), strict=True):
        factors[axis] = factor if isinstance(factor, torch.SymFloat) else float(factor)
    sizes = [_scaled_size(*pair) for pair in zip(x.shape, factors, strict=True)]
    return _scaled(_rule(node), x, factors, sizes)


def _wanted(node: Node, more: Sequence[Value]) -> tuple[Value, Value]:
    """Scales and sizes, of which one is there."""
    if node.op == "Upsample":
        return (more[0] if more else np.array(node.get("scales"))), None
    if node.opset < 11:
        return more[0], None
    _, scales, sizes = [*more, None, None, None][:3]
    empty = isinstance(scales, np.ndarray) and scales.size == 0
    return (None if empty else scales), sizes


def _scaled_size(size: Any, factor: Any) -> Any:
    if isinstance(factor, float) and factor.is_integer():
        return size * int(factor)
    return math.floor(size * factor)


def _to_sizes(node: Node, x: Tensor, wanted: Sequence[Any]) -> Tensor:
    axes = [axis % x.ndim for axis in node.get("axes", range(x.ndim))]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    sizes, factors = list(x.shape), [1.0] * x.ndim
    ratios = [size / x.shape[axis] for axis, size in zip(axes, wanted, strict=True)]
    if policy != "stretch":
        ratio = (min if policy == "not_larger" else max)(ratios)
        ratios = [ratio] * len(axes)
        wanted = [math.floor(x.shape[axis] * ratio + 0.5) for axis in axes]
    for axis, size, ratio in zip(axes, wanted, ratios, strict=True):
        sizes[axis], factors[axis] = size, ratio
    return _scaled(_rule(node), x, factors, sizes)


def _scaled(rule: _Rule, x: Tensor, factors: Sequence[Any], sizes: Sequence[Any]) -> Tensor:
    if _torch_has(rule, x, factors, sizes):
        return _by_torch(rule, x, sizes)
    for axis, (factor, size) in enumerate(zip(factors, sizes, strict=True)):
        length = x.shape[axis]
        if isinstance(factor, float) and factor == 1:
            continue
        if not isinstance(length, int) or not isinstance(size, int):
            raise NotReadError(f"resizes free sizes by {rule.place!r}, {rule.mode!r}")
        matrix = torch.from_numpy(axis_matrix(rule, length, size, float(factor))).to(x)
        x = (x.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
    return x


def _torch_has(rule: _Rule, x: Tensor, factors: Sequence[Any], sizes: Sequence[Any]) -> bool:
    """Whether `F.interpolate` computes the same: of the axes of space, by a rule that it knows."""
    exact = [
        not isinstance(size, int) or not isinstance(length, int) or length * factor == size
        for length, factor, size in zip(x.shape, factors, sizes, strict=True)
    ]
    if x.ndim not in (3, 4, 5) or not all(exact) or list(factors[:2]) != [1.0, 1.0]:
        return False
    if rule.mode == "nearest":
        whole = all(isinstance(f, float) and f.is_integer() and f >= 1 for f in factors)
        # Of whole numbers each point is copied, wherever in it the rule looks for the middle.
        if whole and rule.place == "half_pixel":
            return rule.rounding.startswith("round_prefer")
        return whole and (rule.place, rule.rounding) == ("asymmetric", "floor")
    if rule.mode != "linear":
        return False
    one = any(isinstance(size, int) and size == 1 for size in sizes[2:])
    return rule.place in ("half_pixel", "align_corners") or (
        rule.place == "pytorch_half_pixel" and not one
    )


def _by_torch(rule: _Rule, x: Tensor, sizes: Sequence[Any]) -> Tensor:
    size = list(sizes[2:])
    if rule.mode == "nearest":
        return F.interpolate(x, size=size, mode="nearest")
    aligned = rule.place == "align_corners"
    return F.interpolate(x, size=size, mode=_TORCH_MODES[x.ndim - 2], align_corners=aligned)


def axis_matrix(
    rule: _Rule, length: int, size: int, factor: float
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What each point of the result takes of each point of an axis, (size, length)."""
    place = _places(rule.place, length, size, factor)
    matrix = np.zeros((size, length), np.float64)
    if rule.mode == "nearest":
        matrix[np.arange(size), _nearest(rule.rounding, place).clip(0, length - 1)] = 1
        return matrix.astype(np.float32)
    reach = 1 if rule.mode == "linear" else 2
    first = np.floor(place).astype(int)
    for offset in range(1 - reach, reach + 1):
        at = first + offset
        weight = _kernel(rule, np.abs(place - at))
        if rule.inside_only:
            weight = np.where((at < 0) | (at >= length), 0.0, weight)
        np.add.at(matrix, (np.arange(size), at.clip(0, length - 1)), weight)
    if rule.inside_only:
        matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix.astype(np.float32)


def _places(rule: str, length: int, size: int, factor: float) -> Any:
    at = np.arange(size, dtype=np.float64)
    if rule == "asymmetric":
        return at / factor
    if rule == "half_pixel" or (rule == "pytorch_half_pixel" and size > 1):
        return (at + 0.5) / factor - 0.5
    if rule == "pytorch_half_pixel":
        return at * 0
    if rule == "align_corners":
        # The scale's own length, of which the result has the whole part.
        return at * 0 if length * factor <= 1 else at * (length - 1) / (length * factor - 1)
    if rule == "half_pixel_symmetric":
        shrunk = size / (length * factor)
        offset = length / 2 * (1 - shrunk)
        return offset + (at + 0.5) / factor - 0.5
    raise NotReadError(f"resizes by {rule!r}, which is not read")


def _nearest(rounding: str, place: Any) -> Any:
    rules: dict[str, Callable[[Any], Any]] = {
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    return rules[rounding](place).astype(int)


def _kernel(rule: _Rule, distance: Any) -> Any:
    """Triangles, or Keys' cubic convolution, https://doi.org/10.1109/TASSP.1981.1163711."""
    if rule.mode == "linear":
        return np.maximum(0.0, 1 - distance)
    a, x = rule.cubic, distance
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


RESIZES: dict[str, Callable[..., Any]] = {"Resize": _resize, "Upsample": _resize}
