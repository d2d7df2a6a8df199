"""Tidy: a graph less what it computes without need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from camcore.adapters.sources.onnx.node import Node, NotReadError
from camcore.adapters.sources.onnx.operators.table import OPERATORS
from camcore.adapters.sources.onnx.values import Value
from camcore.errors import ExportError


def fold(
    nodes: Sequence[Node], constants: Mapping[str, Value]
) -> tuple[list[Node], dict[str, Value]]:
    """The nodes that depend on an input, and constants with the values of all others."""
    known, left = dict(constants), []
    for node in nodes:
        if not all(name in known or not name for name in node.inputs):
            left.append(node)
            continue
        values = [known[name] if name else None for name in node.inputs]
        with torch.no_grad():
            results = run_node(node, values)
        known |= {
            name: each.contiguous().numpy() if isinstance(each, Tensor) else each
            for name, each in zip(node.outputs, results, strict=False)
        }
    return left, known


def needed(nodes: Sequence[Node], outputs: Iterable[str]) -> list[Node]:
    """The nodes, in order, on which some output depends."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            found.append(node)
            wanted.update(node.inputs)
    return found[::-1]


def without_strides(
    nodes: Sequence[Node], constants: Mapping[str, Value]
) -> tuple[list[Node], dict[str, Value]]:
    """The nodes with a shape in place of a list of all elements.

    PyTorch's exporter writes `as_strided` as a row of all elements, of which it gathers the first,
    the second, and so on, of one image. Whether the row has more of them is for the proof to see.
    """
    known, found = dict(constants), []
    makers = {node.outputs[0]: node for node in nodes}
    for node in nodes:
        index = known.get(node.inputs[1]) if node.op == "Gather" else None
        before = makers.get(node.inputs[0]) if index is not None else None
        if index is not None and before is not None and _is_row(before, known):
            count = np.arange(index.size).reshape(index.shape)
            if index.ndim > 1 and np.array_equal(index, count):
                shape = f"{node.outputs[0]}.shape"
                known[shape] = np.array(index.shape, np.int64)
                node = replace(node, op="Reshape", inputs=(node.inputs[0], shape), attributes={})
        found.append(node)
    return found, known


def _is_row(node: Node, constants: Mapping[str, Value]) -> bool:
    """Whether a node lays all elements of its input into one row."""
    return node.op == "Reshape" and np.size(constants.get(node.inputs[1], [0, 0])) == 1


def run_node(node: Node, values: Sequence[Value]) -> tuple[Value, ...]:
    """What a node makes of its inputs, None for one that is left out.

    Raises:
        ExportError: it asks for something that is not read; the message names the node.
    """
    try:
        result = OPERATORS[node.op](node, *values)
    except NotReadError as error:
        raise ExportError(
            f"{node.describe()} {error}. Give the model as PyTorch has it, or export it otherwise"
        ) from error
    return result if isinstance(result, tuple) else (result,)
