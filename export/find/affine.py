"""Affine tails: where the scores are a linear function of the activation, plus a constant.

Behind such a tail one gradient says what every channel and every point contributes: no pass is
needed to leave one out. Told from the operators of the graph, not from the modules' classes.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from camcore.export.trace.graphs import outputs_of

aten = torch.ops.aten

# Affine in their first argument, and the others must not vary.
_IN_THE_FIRST = {
    aten.view,
    aten.reshape,
    aten._unsafe_view,
    aten.flatten,
    aten.permute,
    aten.transpose,
    aten.t,
    aten.squeeze,
    aten.unsqueeze,
    aten.expand,
    aten.repeat,
    aten.slice,
    aten.select,
    aten.index_select,
    aten.split,
    aten.split_with_sizes,
    aten.chunk,
    aten.unbind,
    operator.getitem,
    aten.clone,
    aten.alias,
    aten.detach,
    aten.contiguous,
    aten.dropout,
    aten.mean,
    aten.sum,
    aten.neg,
    aten.div,
    aten.linear,
    aten.conv1d,
    aten.conv2d,
    aten.conv3d,
    aten.convolution,
    aten.batch_norm,
    aten._native_batch_norm_legit_no_training,
    aten.avg_pool1d,
    aten.avg_pool2d,
    aten.avg_pool3d,
    aten.adaptive_avg_pool1d,
    aten.adaptive_avg_pool2d,
    aten.adaptive_avg_pool3d,
    aten._adaptive_avg_pool2d,
    aten._adaptive_avg_pool3d,
    aten.upsample_nearest2d,
    aten.upsample_bilinear2d,
    aten.constant_pad_nd,
    aten.pad,
}
# What these give follows from sizes, and not from values.
_SIZES = {aten.sym_size, aten.sym_numel, aten.sym_stride}
# Affine in all that varies together; and in one factor, if the other one does not vary.
_SUMS = {aten.add, aten.sub, aten.cat, aten.stack, aten.addmm}
_PRODUCTS = {aten.mul, aten.mm, aten.bmm, aten.matmul}


def is_affine(tail: fx.GraphModule) -> bool:
    """Whether a tail's last output is affine in its first input, for all the graph can tell.

    A graph in eval mode: its dropout does nothing, its batch norm has fixed statistics.
    """
    activation = tail.graph.find_nodes(op="placeholder")[0]
    scores = outputs_of(tail)[-1]
    varying = _varying(activation)
    pending, seen = [scores], set()
    while pending:
        node = pending.pop()
        if node is activation or node not in varying or node in seen:
            continue
        seen.add(node)
        if not _is_affine(node, varying):
            return False
        pending.extend(node.all_input_nodes)
    return scores in varying


def _varying(activation: fx.Node) -> set[fx.Node]:
    """What follows from the activation's values, and not from its sizes alone."""
    found = {activation}
    for node in activation.graph.nodes:  # in topological order
        follows = any(value in found for value in node.all_input_nodes)
        if follows and operator_of(node) not in _SIZES:
            found.add(node)
    return found


def _is_affine(node: fx.Node, varying: set[fx.Node]) -> bool:
    called = operator_of(node)
    arguments = [value for value in node.all_input_nodes if value in varying]
    if _rounds(node):
        return False
    if called in _IN_THE_FIRST:
        return arguments == [node.args[0]] and not in_training(node)
    if called in _PRODUCTS:
        return len(arguments) == 1 and node.args[0] is not node.args[1]
    if called is aten.addmm:
        return not (node.args[1] in varying and node.args[2] in varying)
    return called in _SUMS


def operator_of(node: fx.Node) -> Any:
    """What is called, whichever overload of it."""
    return getattr(node.target, "overloadpacket", node.target)


def _rounds(node: fx.Node) -> bool:
    """Whether it gives whole numbers, by its type or because a division is told to."""
    tensors = [leaf for leaf in tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]
    whole = not all(tensor.is_floating_point() for tensor in tensors)
    return whole or node.kwargs.get("rounding_mode") is not None


def in_training(node: fx.Node) -> bool:
    """Whether it is one of the operators that behave otherwise in training, told to do so."""
    place = {aten.dropout: 2, aten.batch_norm: 5}.get(operator_of(node))
    return place is not None and bool(node.args[place])
