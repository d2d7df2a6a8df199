"""Shapes: sizes as numbers, and operators that move elements without changing them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from camcore.adapters.sources.onnx.node import Node, NotReadError
from camcore.adapters.sources.onnx.values import (
    Value,
    as_array,
    as_ints,
    as_number,
    as_tensor,
    is_known,
)

_FAR = 2**30  # what stands for the end of an axis
_PADDING = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _shape(node: Node, x: Value) -> Value:
    return as_array(x.shape[node.get("start", 0) : node.get("end")])


def _size(node: Node, x: Value) -> Value:
    return as_array([math.prod(x.shape)]).reshape(())


def _reshape(node: Node, x: Value, shape: Value) -> Value:
    sizes = as_ints(shape)
    if not node.get("allowzero", 0):
        # A zero stands for the size that the axis has.
        zero = [isinstance(size, int) and size == 0 for size in sizes]
        sizes = [x.shape[n] if zero[n] else size for n, size in enumerate(sizes)]
    return x.reshape(tuple(sizes))


def _flatten(node: Node, x: Value) -> Value:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1 and isinstance(x, Tensor) and x.ndim > 1:
        return x.flatten(1)
    return x.reshape((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _transpose(node: Node, x: Value) -> Value:
    order = node.get("perm", list(range(x.ndim))[::-1])
    return x.transpose(order) if is_known(x) else x.permute(order)


def _axes(node: Node, axes: Value) -> list[int] | None:
    """An attribute in old versions, an input in new."""
    return as_ints(axes) if axes is not None else node.get("axes")


def _squeeze(node: Node, x: Value, axes: Value = None) -> Value:
    over = _axes(node, axes)
    if over is None:
        over = [n for n, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    over = [axis % x.ndim for axis in over]
    return np.squeeze(x, tuple(over)) if is_known(x) else x.squeeze(tuple(over))


def _unsqueeze(node: Node, x: Value, axes: Value = None) -> Value:
    new = _axes(node, axes) or []
    if is_known(x):
        return np.expand_dims(x, tuple(new))
    rank = x.ndim + len(new)
    for axis in sorted(axis % rank for axis in new):
        x = x.unsqueeze(axis)
    return x


def _concat(node: Node, *values: Value) -> Value:
    axis = node.get("axis", 1)
    if is_known(*values):
        return np.concatenate(values, axis)
    like = next(value for value in values if isinstance(value, Tensor))
    return torch.cat([as_tensor(value, like) for value in values], axis)


def _split(node: Node, x: Value, sizes: Value = None) -> tuple[Value, ...]:
    axis = node.get("axis", 0)
    parts = as_ints(sizes) if sizes is not None else node.get("split")
    if parts is None:
        count = node.get("num_outputs", len(node.outputs))
        each = (x.shape[axis] + count - 1) // count
        parts = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    if is_known(x):
        return tuple(np.split(x, np.cumsum(parts)[:-1], axis))
    return tuple(torch.split(x, parts, axis))


def _slice(
    node: Node,
    x: Value,
    starts: Value = None,
    ends: Value = None,
    axes: Value = None,
    steps: Value = None,
) -> Value:
    """Attributes before opset 10, inputs since."""
    first = as_ints(starts) if starts is not None else node.get("starts")
    last = as_ints(ends) if ends is not None else node.get("ends")
    over = _axes(node, axes)
    over = list(range(len(first))) if over is None else over
    by = as_ints(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, last, over, by, strict=True):
        axis %= x.ndim
        if isinstance(step, int) and step < 0:
            x, start, end, step = _turned(x, axis, start, end, step)
        end = None if isinstance(end, int) and end > _FAR else end
        key: list[Any] = [slice(None)] * x.ndim
        key[axis] = slice(start, end, step)
        x = x[tuple(key)]
    return x


def _turned(x: Value, axis: int, start: Any, end: Any, step: int) -> tuple[Value, Any, Any, int]:
    """An axis turned round, and the same slice of it, forwards."""
    length = x.shape[axis]
    if not all(isinstance(each, int) for each in (length, start, end)):
        raise NotReadError("slices backwards by sizes that are free")
    # As Python does: from the last element at most, down to before the first.
    reached = range(*slice(start, end if end >= -_FAR else None, step).indices(length))
    x = np.flip(x, axis) if is_known(x) else x.flip(axis)
    if not len(reached):
        return x, 0, 0, 1
    return x, length - 1 - reached[0], length - reached[-1], -step


def _gather(node: Node, x: Value, index: Value) -> Value:
    axis = node.get("axis", 0)
    if is_known(x, index):
        return np.asarray(np.take(x, index.astype(np.int64), axis), dtype=x.dtype)
    x = as_tensor(x, index)
    axis %= x.ndim
    if is_known(index) and index.ndim == 0 and index.dtype != object:
        return x.select(axis, int(index))
    places = as_tensor(index).to(x.device, torch.int64)
    places = torch.where(places < 0, places + x.shape[axis], places)
    taken = x.index_select(axis, places.reshape(-1))
    return taken.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _places(index: Value, size: Any) -> Tensor:
    """Indices, of which negative ones count from the end."""
    places = as_tensor(index).long()
    return torch.where(places < 0, places + size, places)


def _gather_elements(node: Node, x: Value, index: Value) -> Tensor:
    x, axis = as_tensor(x), node.get("axis", 0)
    return torch.gather(x, axis, _places(index, x.shape[axis]))


def _gather_nd(node: Node, x: Value, index: Value) -> Tensor:
    if node.get("batch_dims", 0):
        raise NotReadError("gathers by batch (batch_dims), which is not read")
    return as_tensor(x)[tuple(as_tensor(index).unbind(-1))]


def _scatter_nd(node: Node, x: Value, index: Value, updates: Value) -> Value:
    if node.get("reduction", "none") != "none":
        raise NotReadError("scatters with a reduction, which is not read")
    if is_known(x, index, updates):
        written = x.copy()
        written[tuple(np.moveaxis(index, -1, 0).astype(np.int64))] = updates
        return written
    x = as_tensor(x, updates)
    return torch.index_put(x, tuple(as_tensor(index).unbind(-1)), as_tensor(updates, x))


def _scatter_elements(node: Node, x: Value, index: Value, updates: Value) -> Tensor:
    if node.get("reduction", "none") != "none":
        raise NotReadError("scatters with a reduction, which is not read")
    x, axis = as_tensor(x, updates), node.get("axis", 0)
    return torch.scatter(x, axis, _places(index, x.shape[axis]), as_tensor(updates, x))


def _expand(node: Node, x: Value, shape: Value) -> Value:
    """Both sides broadcast, aligned at the end."""
    wanted, x = as_ints(shape), as_tensor(x)
    own = [1] * max(0, len(wanted) - x.ndim) + list(x.shape)
    wanted = [1] * (len(own) - len(wanted)) + wanted
    one = [isinstance(size, int) and size == 1 for size in wanted]
    sizes = [own[n] if one[n] else size for n, size in enumerate(wanted)]
    return x.reshape(own).expand(sizes)


def _tile(node: Node, x: Value, repeats: Value) -> Value:
    times = as_ints(repeats)
    return np.tile(x, times) if is_known(x) else x.repeat(times)


def _pad(
    node: Node, x: Value, pads: Value = None, value: Value = None, axes: Value = None
) -> Value:
    """Attributes before opset 11, inputs since."""
    amounts = as_ints(pads) if pads is not None else node.get("pads")
    filled = as_number(value) if value is not None else node.get("value", 0.0)
    x = as_tensor(x)
    over = as_ints(axes) if axes is not None else list(range(x.ndim))
    pairs: list[tuple[Any, Any]] = [(0, 0)] * x.ndim
    for n, axis in enumerate(over):
        pairs[axis % x.ndim] = (amounts[n], amounts[n + len(over)])
    mode = _PADDING[node.get("mode", "constant")]
    known = [all(isinstance(each, int) for each in pair) for pair in pairs]
    first = next((n for n, pair in enumerate(pairs) if not known[n] or any(pair)), x.ndim)
    if first == x.ndim:
        return x
    if mode != "constant" and first < x.ndim - 3:
        raise NotReadError(f"pads more than the last three axes by {mode!r}")
    flat = [amount for pair in reversed(pairs[first:]) for amount in pair]
    if mode == "constant":
        return F.pad(x, flat, value=filled)
    # PyTorch's other modes want two axes before those that they pad, at most.
    rank = len(flat) // 2
    lead = x.shape[: x.ndim - rank]
    squared = x.reshape(1, -1, *x.shape[x.ndim - rank :])
    padded = F.pad(squared, flat, mode)
    return padded.reshape(*lead, *padded.shape[2:])


def _filled(node: Node, shape: Value) -> Value:
    (value,) = node.get("value", np.zeros(1, np.float32)).reshape(-1)
    sizes = as_ints(shape)
    if all(isinstance(size, int) for size in sizes):
        return np.full(sizes, value)
    return torch.full(sizes, value.item(), dtype=torch.from_numpy(np.asarray([value])).dtype)


def _range(node: Node, start: Value, limit: Value, delta: Value) -> Value:
    first, last, step = map(as_number, (start, limit, delta))
    if any(isinstance(each, torch.SymInt | torch.SymFloat) for each in (first, last, step)):
        return torch.arange(first, last, step)
    return np.arange(first, last, step, dtype=start.dtype if start.dtype != object else None)


def _constant(node: Node) -> Value:
    for name, value in node.attributes.items():
        if name in ("value", "value_int", "value_ints", "value_float", "value_floats"):
            floating = name.startswith("value_float")
            if name == "value":
                return value
            return np.asarray(value, dtype=np.float32 if floating else np.int64)
    raise NotReadError("holds something else than numbers")


def _dropout(node: Node, x: Value, ratio: Value = None, training: Value = None) -> Value:
    if node.results > 1 or as_number(training):
        raise NotReadError("drops values at random, in training mode. Export it in eval mode")
    return x


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    less = channels // block**2
    parts = x.reshape(batch, block, block, less, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(batch, less, height * block, width * block)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize")
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // block, block, width // block, block)
    # Channels come behind the place in a block, or before it.
    crd = node.get("mode", "DCR") == "CRD"
    parts = parts.permute((0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4))
    return parts.reshape(batch, channels * block**2, height // block, width // block)


def _triangle(node: Node, x: Value, diagonal: Value = None) -> Tensor:
    keep = torch.triu if node.get("upper", 1) else torch.tril
    return keep(as_tensor(x), as_number(diagonal) or 0)


def _one_hot(node: Node, index: Value, depth: Value, values: Value) -> Tensor:
    places, count = as_tensor(index).long(), int(as_number(depth))
    off, on = as_tensor(values)
    axis = node.get("axis", -1)
    rows = torch.arange(count)
    axis = axis % (places.ndim + 1)
    shape = [1] * (places.ndim + 1)
    shape[axis] = count
    hot = torch.where(places < 0, places + count, places).unsqueeze(axis) == rows.reshape(shape)
    return torch.where(hot, on, off)


SHAPES: dict[str, Callable[..., Any]] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda node, x: x,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
