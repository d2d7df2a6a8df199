"""Products: matrices, and norms, which scale what they have measured."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from camcore.adapters.sources.onnx.node import Node, NotReadError
from camcore.adapters.sources.onnx.values import Value, as_tensor


def _product(node: Node, x: Value, y: Value) -> Tensor:
    return as_tensor(x, y) @ as_tensor(y, x)


def _gemm(node: Node, a: Value, b: Value, c: Value = None) -> Value:
    """alpha A B + beta C."""
    a, b = as_tensor(a, b), as_tensor(b, a)
    a = a.mT if node.get("transA", 0) else a
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    c = None if c is None else as_tensor(c, a)
    if alpha == beta == 1 and (c is None or c.ndim == 1):
        return F.linear(a, b if node.get("transB", 0) else b.mT, c)
    product = alpha * (a @ (b.mT if node.get("transB", 0) else b))
    return product if c is None else product + beta * c


def _einsum(node: Node, *values: Value) -> Tensor:
    return torch.einsum(node.get("equation"), *map(as_tensor, values))


def _batch_norm(node: Node, x: Tensor, *statistics: Value) -> Tensor:
    if node.get("training_mode", 0) or node.results > 1:
        raise NotReadError("normalises in training mode. Export the model in eval mode")
    weight, bias, mean, variance = (as_tensor(each, x) for each in statistics)
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, node.get("epsilon", 1e-5))


def _instance_norm(node: Node, x: Tensor, weight: Value, bias: Value) -> Tensor:
    pair = as_tensor(weight, x), as_tensor(bias, x)
    return F.instance_norm(x, None, None, *pair, eps=node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Tensor, weight: Value, bias: Value = None) -> Value:
    axis = node.get("axis", -1) % x.ndim
    if node.results > 1:
        over = tuple(range(axis, x.ndim))
        mean = x.mean(over, keepdim=True)
        spread = torch.rsqrt(x.var(over, correction=0, keepdim=True) + node.get("epsilon", 1e-5))
        return (x - mean) * spread * as_tensor(weight, x) + _or_zero(bias, x), mean, spread
    weight, bias = as_tensor(weight, x), None if bias is None else as_tensor(bias, x)
    shape, eps = x.shape[axis:], node.get("epsilon", 1e-5)
    whole = tuple(weight.shape) == tuple(shape) and (bias is None or bias.shape == weight.shape)
    if whole:
        return F.layer_norm(x, shape, weight, bias, eps)
    scaled = F.layer_norm(x, shape, eps=eps) * weight
    return scaled if bias is None else scaled + bias


def _or_zero(bias: Value, like: Tensor) -> Value:
    return 0.0 if bias is None else as_tensor(bias, like)


def _group_norm(node: Node, x: Tensor, weight: Value, bias: Value) -> Tensor:
    """Weights are the groups' before opset 21, the channels' since."""
    groups = node.get("num_groups")
    weight, bias = as_tensor(weight, x), as_tensor(bias, x)
    if weight.shape[0] != x.shape[1]:
        each = x.shape[1] // groups
        weight, bias = weight.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, weight, bias, node.get("epsilon", 1e-5))


def _rms_norm(node: Node, x: Tensor, weight: Value) -> Tensor:
    axes = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    mean = (x * x).mean(axes, keepdim=True)
    return x * torch.rsqrt(mean + node.get("epsilon", 1e-5)) * as_tensor(weight, x)


def _lp_norm(node: Node, x: Tensor) -> Tensor:
    axis, power = node.get("axis", -1), node.get("p", 2)
    length = torch.linalg.vector_norm(x, power, dim=axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / length)


def _mean_variance(node: Node, x: Tensor) -> Tensor:
    axes = tuple(node.get("axes", [0, 2, 3]))
    centred = x - x.mean(axes, keepdim=True)
    return centred / ((centred * centred).mean(axes, keepdim=True).sqrt() + 1e-9)


PRODUCTS: dict[str, Callable[..., Any]] = {
    "BatchNormalization": _batch_norm,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": _product,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms_norm,
}
