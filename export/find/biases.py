"""Biases: what a graph adds to channels, which FullGrad tells the score apart into."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from camcore.export.cut import ancestors, constants_of, dependents
from camcore.export.find.affine import in_training, operator_of
from camcore.export.find.frames import folds_frames
from camcore.export.trace.graphs import outputs_of, shape_of
from camcore.export.trace.trace import Trace

aten = torch.ops.aten

_CONVOLUTIONS = {
    aten.conv1d,
    aten.conv2d,
    aten.conv3d,
    aten.conv_transpose1d,
    aten.conv_transpose2d,
    aten.conv_transpose3d,
    aten.convolution,
}
# With fixed statistics they are affine.
_BATCH_NORMS = {aten.batch_norm, aten._native_batch_norm_legit_no_training}
_SUMS = {aten.add, aten.sub}
_ADDING = _CONVOLUTIONS | _BATCH_NORMS | _SUMS


class Bias(NamedTuple):
    """A value to whose channels `added` (C,) was added."""

    node: fx.Node
    added: Tensor


def find_biases(traced: Trace) -> list[Bias]:
    """What is added to channels between the image and the scores, call by call, in their order.

    Found by the operators: the bias of a convolution; what a batch normalisation with fixed
    statistics, which is an affine map, makes of 0; what a sum with a constant for each channel
    does.

    Source: Srinivas and Fleuret 2019, section 3.2, https://arxiv.org/abs/1905.00780
    """
    graph = traced.graph
    inputs = graph.graph.find_nodes(op="placeholder")
    varying, of_image = dependents(inputs), dependents(inputs[:1])
    counting = ancestors(outputs_of(graph)[-1])
    found = []
    for node in graph.graph.nodes:
        if operator_of(node) in _ADDING and node in of_image and node in counting:
            value = node if isinstance(node.meta["val"], Tensor) else next(iter(node.users))
            added = _added(graph, node, varying, value) if _is_map(value, inputs[0]) else None
            if added is not None:
                found.append(Bias(value, added))
    return found


def _is_map(value: fx.Node, image: fx.Node) -> bool:
    """Whether it is (B, C, *S), of however few points, or (B * T, C, H, W) of a video's frames."""
    made = value.meta["val"]
    if not isinstance(made, Tensor) or made.ndim < 2 or not isinstance(made.shape[1], int):
        return False
    shape, expected = shape_of(value), shape_of(image)
    if folds_frames(value):
        return len(shape) == len(expected) - 1
    return len(shape) == len(expected) and shape[0] == expected[0]


def _added(
    graph: fx.GraphModule, node: fx.Node, varying: set[fx.Node], value: fx.Node
) -> Tensor | None:
    """What an operator adds to the channels of what it gives, (C,), None for no constant."""
    called = operator_of(node)
    if called in _CONVOLUTIONS:
        bias = node.args[2] if len(node.args) > 2 else None
        if not isinstance(bias, fx.Node) or bias in varying:
            return None
        return constants_of(graph, [bias])[0]
    if in_training(node):
        return None
    arguments = [arg for arg in node.args if isinstance(arg, fx.Node)]
    constant = [arg for arg in arguments if _unexpanded(arg) not in varying]
    if not constant or len(arguments) != len(constant) + 1:
        return None
    values = constants_of(graph, list(map(_unexpanded, constant)))
    _, channels, *space = value.meta["val"].shape
    if called in _SUMS and not _is_for_each_channel(values[0], channels, len(space)):
        return None
    given = dict(zip(constant, values, strict=True))
    zeros = values[0].new_zeros(1, channels, *[1] * len(space))
    operator: Any = node.target
    with_values: Any = fx.map_arg(node.args, lambda arg: given.get(arg, zeros))
    made = operator(*with_values, **node.kwargs)
    return (made if isinstance(made, Tensor) else made[0]).flatten()


def _unexpanded(node: fx.Node) -> fx.Node:
    """What it is a view of, over more points or images: how many they are depends on the image."""
    while operator_of(node) is aten.expand:
        node = node.all_input_nodes[0]
    return node


def _is_for_each_channel(constant: Tensor, channels: int, spatial_ndim: int) -> bool:
    """Whether it is (C, 1, ...) or (1, C, 1, ...), or one number of as many axes, which a sum adds
    to all points alike.
    """
    shape = constant.shape[-1 - spatial_ndim :]
    return (
        constant.ndim > spatial_ndim and constant.numel() == shape[0] and shape[0] in (1, channels)
    )
