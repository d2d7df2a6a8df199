"""Windows: convolutions and pools, and how they pad."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from camcore.adapters.sources.onnx.node import Node, NotReadError
from camcore.adapters.sources.onnx.values import Value, as_tensor

_CONVOLUTIONS: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Any = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAXIMA: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEANS: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

Pads = tuple[list[Any], list[Any]]


def window_pads(
    node: Node, size: Sequence[Any], kernel: Sequence[int], strides: Sequence[int]
) -> Pads:
    """What is padded before and behind each axis, by `pads` or by the rule of `auto_pad`."""
    rank = len(kernel)
    rule = node.get("auto_pad", "NOTSET")
    if rule == "NOTSET":
        pads = node.get("pads", [0] * 2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    if rule == "VALID":
        return [0] * rank, [0] * rank
    before, behind = [], []
    dilations = node.get("dilations", [1] * rank)
    for length, width, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        steps = (length + stride - 1) // stride - 1
        total = steps * stride + (width - 1) * dilation + 1 - length
        total = torch.sym_max(total, 0)
        less, more = total // 2, total - total // 2
        before.append(less if rule == "SAME_UPPER" else more)
        behind.append(more if rule == "SAME_UPPER" else less)
    return before, behind


def _flat(before: Sequence[Any], behind: Sequence[Any]) -> list[Any]:
    """In the order of `F.pad`, the last axis first."""
    pairs = list(zip(before, behind, strict=True))
    return [amount for pair in reversed(pairs) for amount in pair]


def _strides(node: Node, rank: int) -> list[int]:
    return list(node.get("strides", [1] * rank))


def _alike(before: Sequence[Any], behind: Sequence[Any]) -> bool:
    """Whether both ends are padded by the same, known amount."""
    return all(isinstance(each, int) for each in (*before, *behind)) and before == behind


def convolution(node: Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
    weight, bias = as_tensor(weight, x), None if bias is None else as_tensor(bias, x)
    rank = weight.ndim - 2
    strides, dilations = _strides(node, rank), node.get("dilations", [1] * rank)
    before, behind = window_pads(node, x.shape[2:], weight.shape[2:], strides)
    if not _alike(before, behind):
        x, before = F.pad(x, _flat(before, behind)), [0] * rank
    groups = node.get("group", 1)
    result: Tensor = _CONVOLUTIONS[rank](x, weight, bias, strides, before, dilations, groups)
    return result


def _transposed_convolution(node: Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
    """What it makes without pads, less what the pads cut off."""
    weight, bias = as_tensor(weight, x), None if bias is None else as_tensor(bias, x)
    rank = weight.ndim - 2
    strides, dilations = _strides(node, rank), list(node.get("dilations", [1] * rank))
    further = list(node.get("output_padding", [0] * rank))
    before, behind = _cut_off(node, x, weight, strides, dilations, further)
    groups = node.get("group", 1)
    alike = _alike(before, behind) and min(before) >= 0
    inner = before if alike else [0] * rank
    result: Tensor = _TRANSPOSED[rank](
        x, weight, bias, strides, inner, further if alike else [0] * rank, groups, dilations
    )
    if alike:
        return result
    grown = [more - end for more, end in zip(further, behind, strict=True)]
    if any(isinstance(each, int) and each > 0 for each in grown) and bias is not None:
        raise NotReadError("makes more than it reaches, with a bias")
    return F.pad(result, _flat([-each for each in before], grown))


def _cut_off(
    node: Node,
    x: Tensor,
    weight: Tensor,
    strides: Sequence[int],
    dilations: Sequence[int],
    further: Sequence[int],
) -> Pads:
    rank = len(strides)
    rule, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if wanted is None and rule in ("NOTSET", "VALID"):
        pads = node.get("pads", [0] * 2 * rank) if rule == "NOTSET" else [0] * 2 * rank
        return list(pads[:rank]), list(pads[rank:])
    before, behind = [], []
    for axis in range(rank):
        length, stride = x.shape[2 + axis], strides[axis]
        full = stride * (length - 1) + (weight.shape[2 + axis] - 1) * dilations[axis] + 1
        size = length * stride if wanted is None else wanted[-rank:][axis]
        total = full + further[axis] - size
        less, more = total // 2, total - total // 2
        before.append(less if rule == "SAME_UPPER" else more)
        behind.append(more if rule == "SAME_UPPER" else less)
    return before, behind


def _ceiling(
    node: Node, x: Tensor, kernel: Sequence[int], strides: Sequence[int], pads: Pads
) -> list[int]:
    """How much more is to be padded behind each axis for the last window of `ceil_mode`."""
    if not node.get("ceil_mode", 0):
        return [0] * len(kernel)
    more = []
    dilations = node.get("dilations", [1] * len(kernel))
    for axis, (width, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        length = x.shape[2 + axis]
        reach = length + pads[0][axis] + pads[1][axis] - (width - 1) * dilation - 1
        count = -(-reach // stride) + 1
        # A window that begins behind the image is none.
        if (count - 1) * stride >= length + pads[0][axis]:
            count -= 1
        more.append(max(0, (count - 1) * stride - reach))
    return more


def _plain(before: Sequence[Any], behind: Sequence[Any], kernel: Sequence[int]) -> bool:
    """Whether PyTorch's pools pad so: alike at both ends, by half a window at most."""
    if not _alike(before, behind):
        return False
    return all(2 * pad <= width for pad, width in zip(before, kernel, strict=True))


def _max_pool(node: Node, x: Tensor) -> Value:
    if node.results > 1:
        raise NotReadError("gives the places of the maxima, which is not read")
    kernel = node.get("kernel_shape")
    rank = len(kernel)
    strides, dilations = _strides(node, rank), list(node.get("dilations", [1] * rank))
    before, behind = window_pads(node, x.shape[2:], kernel, strides)
    pool = _MAXIMA[rank]
    if _plain(before, behind, kernel):
        ceil = bool(node.get("ceil_mode", 0))
        return pool(x, kernel, strides, before, dilations, ceil)
    more = _ceiling(node, x, kernel, strides, (before, behind))
    behind = [end + extra for end, extra in zip(behind, more, strict=True)]
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = F.pad(x, _flat(before, behind), value=lowest)
    return pool(padded, kernel, strides, 0, dilations)


def _average_pool(node: Node, x: Tensor) -> Value:
    kernel = node.get("kernel_shape")
    rank = len(kernel)
    if any(each != 1 for each in node.get("dilations", [1] * rank)):
        raise NotReadError("averages with gaps between (dilations), which is not read")
    strides, counted = _strides(node, rank), bool(node.get("count_include_pad", 0))
    before, behind = window_pads(node, x.shape[2:], kernel, strides)
    pool = _MEANS[rank]
    if _plain(before, behind, kernel):
        ceil = bool(node.get("ceil_mode", 0))
        return pool(x, kernel, strides, before, ceil, counted)
    more = _ceiling(node, x, kernel, strides, (before, behind))
    pads, beyond = _flat(before, behind), _flat([0] * rank, more)
    inside = F.pad(torch.ones_like(x[:1, :1]), pads, value=float(counted))
    share = pool(F.pad(inside, beyond), kernel, strides)
    return pool(F.pad(F.pad(x, pads), beyond), kernel, strides) / share


def _over_space(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda node, x: function(x, tuple(range(2, x.ndim)), keepdim=True)


def _lp_pool(node: Node, x: Tensor) -> Value:
    kernel = node.get("kernel_shape")
    rank = len(kernel)
    strides, power = _strides(node, rank), node.get("p", 2)
    before, behind = window_pads(node, x.shape[2:], kernel, strides)
    if any(each != 1 for each in node.get("dilations", [1] * rank)) or node.get("ceil_mode", 0):
        raise NotReadError("pools with gaps between or a last window that is cut")
    padded = F.pad(x.abs() ** power, _flat(before, behind))
    total: Tensor = _MEANS[rank](padded, kernel, strides) * math.prod(kernel)
    return total ** (1 / power)


def _global_lp_pool(node: Node, x: Tensor) -> Value:
    power, axes = node.get("p", 2), tuple(range(2, x.ndim))
    total = (x.abs() ** power).sum(axes, keepdim=True)
    return total ** (1 / power)


def _local_response(node: Node, x: Tensor) -> Value:
    """The channels of a window: of an even one, more of those behind."""
    size = node.get("size")
    before, behind = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = F.pad(x * x, [0, 0] * (x.ndim - 2) + [before, behind])
    total = squares.unfold(1, size, 1).sum(-1)
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return x / (bias + alpha / size * total) ** beta


WINDOWS: dict[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "Conv": convolution,
    "ConvTranspose": _transposed_convolution,
    "GlobalAveragePool": _over_space(torch.mean),
    "GlobalLpPool": _global_lp_pool,
    "GlobalMaxPool": _over_space(torch.amax),
    "LRN": _local_response,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}
