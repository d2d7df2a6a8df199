"""Layers: nodes with constant weights as the PyTorch modules that they are."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.values import Value

_CONVOLUTIONS: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class BatchNorm(_BatchNorm):
    """Batch normalisation of however many axes."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (PyTorch's name)
        pass


class Weights:
    """Constants as parameters, of which one that several nodes read is one."""

    def __init__(self, constants: Mapping[str, Value]) -> None:
        self._constants = constants
        self._made: dict[tuple[str, bool], nn.Parameter] = {}

    def get(self, name: str, *, turned: bool = False) -> nn.Parameter:
        """The constant of that name, transposed where it is `turned`."""
        if (name, turned) not in self._made:
            array = self._constants[name]
            tensor = torch.from_numpy(np.array(array.T if turned else array, order="C"))
            self._made[name, turned] = nn.Parameter(tensor, tensor.is_floating_point())
        return self._made[name, turned]


def torch_layer(node: Node, constants: Mapping[str, Value], weights: Weights) -> nn.Module | None:
    """The node as PyTorch's own layer of what comes in; None where there is none.

    Methods that look for layers, as FullGrad does for biases, find them.
    """
    _, *others = [*node.inputs, ""]
    fixed = all(name in constants for name in others if name)
    if not fixed or node.op not in _LAYERS or node.inputs[0] in constants:
        return None
    shapes = [constants[name].shape if name else None for name in others]
    with torch.device("meta"):
        return _LAYERS[node.op](node, others, shapes, weights)


def _convolution(node: Node, names: Any, shapes: Any, weights: Weights) -> nn.Module | None:
    (out, into, *kernel), rank = shapes[0], len(shapes[0]) - 2
    pads = node.get("pads", [0] * 2 * rank)
    if node.get("auto_pad", "NOTSET") != "NOTSET" or pads[:rank] != pads[rank:]:
        return None
    groups, biased = node.get("group", 1), bool(names[1])
    layer: nn.Module = _CONVOLUTIONS[rank](
        into * groups,
        out,
        tuple(kernel),
        stride=tuple(node.get("strides", [1] * rank)),
        padding=tuple(pads[:rank]),
        dilation=tuple(node.get("dilations", [1] * rank)),
        groups=groups,
        bias=biased,
    )
    return _with(layer, weight=weights.get(names[0]), bias=_get(weights, names[1]))


def _gemm(node: Node, names: Any, shapes: Any, weights: Weights) -> nn.Module | None:
    plain = node.get("alpha", 1.0) == node.get("beta", 1.0) == 1 and not node.get("transA", 0)
    if not plain or (shapes[1] is not None and len(shapes[1]) != 1):
        return None
    out, into = shapes[0] if node.get("transB", 0) else shapes[0][::-1]
    if shapes[1] is not None and shapes[1] != (out,):
        return None
    weight = weights.get(names[0], turned=not node.get("transB", 0))
    layer = nn.Linear(into, out, bias=bool(names[1]))
    return _with(layer, weight=weight, bias=_get(weights, names[1]))


def _product(node: Node, names: Any, shapes: Any, weights: Weights) -> nn.Module | None:
    """A product with a matrix: as a linear layer, its gradient is one of the weight as it is."""
    if len(shapes[0]) != 2:
        return None
    into, out = shapes[0]
    layer = nn.Linear(into, out, bias=False)
    return _with(layer, weight=weights.get(names[0], turned=True))


def _batch_norm(node: Node, names: Any, shapes: Any, weights: Weights) -> nn.Module | None:
    if node.get("training_mode", 0) or node.results > 1:
        return None
    layer = BatchNorm(shapes[0][0], eps=node.get("epsilon", 1e-5))
    layer.num_batches_tracked = torch.tensor(0, device="cpu")
    layer.running_mean, layer.running_var = (weights.get(name).detach() for name in names[2:4])
    return _with(layer, weight=weights.get(names[0]), bias=weights.get(names[1]))


def _get(weights: Weights, name: str) -> nn.Parameter | None:
    return weights.get(name) if name else None


def _with(layer: nn.Module, **parameters: nn.Parameter | None) -> nn.Module:
    for name, parameter in parameters.items():
        layer.register_parameter(name, parameter)
    return layer


_LAYERS: dict[str, Callable[..., nn.Module | None]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _product,
}
