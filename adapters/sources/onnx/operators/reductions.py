"""Reductions: over axes that are attributes in old versions of an operator and inputs in new."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camcore.adapters.sources.onnx.node import Node, NotReadError
from camcore.adapters.sources.onnx.values import Value, as_ints, as_number, as_tensor, is_known

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _over(reduce: Reduction, on_arrays: Callable[..., Any] | None = None) -> Callable[..., Any]:
    def apply(node: Node, x: Value, axes: Value = None) -> Value:
        given = as_ints(axes) if axes is not None else node.get("axes")
        if not given and node.get("noop_with_empty_axes", 0):
            # The axes alone: what is done to each element is still done.
            given = []
        elif not given:
            given = list(range(x.ndim))
        keep = bool(node.get("keepdims", 1))
        over = tuple(axis % x.ndim for axis in given)
        if is_known(x) and on_arrays is not None:
            return np.asarray(on_arrays(x, axis=over, keepdims=keep))
        x = as_tensor(x)
        # PyTorch takes no axes for all of them: an axis more, of one, to reduce instead.
        return reduce(x, over, keep) if over else reduce(x[..., None], (x.ndim,), False)

    return apply


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def _extreme(name: str) -> Callable[..., Any]:
    def apply(node: Node, x: Value) -> Value:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        x = as_tensor(x)
        if not node.get("select_last_index", 0):
            return getattr(x, name)(axis, keep)
        result = getattr(x.flip(axis), name)(axis, keep)
        return x.shape[axis] - 1 - result

    return apply


def _top(node: Node, x: Value, count: Value) -> tuple[Tensor, Tensor]:
    axis = node.get("axis", -1)
    largest = bool(node.get("largest", 1))
    values, places = torch.topk(as_tensor(x), as_number(count), axis, largest)
    return values, places


def _running_sum(node: Node, x: Value, axis: Value) -> Tensor:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise NotReadError("sums up exclusively or backwards, which is not read")
    return as_tensor(x).cumsum(as_number(axis))


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ArgMax": _extreme("argmax"),
    "ArgMin": _extreme("argmin"),
    "CumSum": _running_sum,
    "ReduceL1": _over(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _over(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceLogSum": _over(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": _over(lambda x, axes, keep: torch.logsumexp(x, axes, keep)),
    "ReduceMax": _over(torch.amax, np.max),
    "ReduceMean": _over(torch.mean),
    "ReduceMin": _over(torch.amin, np.min),
    "ReduceProd": _over(_product, np.prod),
    "ReduceSum": _over(torch.sum, np.sum),
    "ReduceSumSquare": _over(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "TopK": _top,
}
