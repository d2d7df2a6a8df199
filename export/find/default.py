"""The default layer: the one that is explained where none is named."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from camcore.errors import ExportError
from camcore.export.find.grids import Layout, is_in_proportion
from camcore.export.find.modules import layout_of, layout_or_reason, returned_by_module
from camcore.export.find.probes import random_inputs, random_like
from camcore.export.trace.graphs import outputs_of, sizes_of
from camcore.export.trace.trace import Trace

# What comes behind these has lost the image's grid, even where it still looks like one (VGG pools
# to 7 x 7).
_GLOBAL_POOLS = {
    torch.ops.aten.adaptive_avg_pool1d.default,
    torch.ops.aten.adaptive_avg_pool2d.default,
    torch.ops.aten.adaptive_avg_pool3d.default,
    torch.ops.aten.adaptive_max_pool2d.default,
    torch.ops.aten.mean.dim,
}

# What lies between a map of scores and the same at the image's size.
_RESIZES = {
    torch.ops.aten.upsample_nearest2d.vec,
    torch.ops.aten.upsample_bilinear2d.vec,
    torch.ops.aten.upsample_bicubic2d.vec,
}

# Where queries meet keys, and what comes of them the values.
_PRODUCTS = {
    torch.ops.aten.matmul.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.einsum.default,
    torch.ops.aten.scaled_dot_product_attention.default,
}


def default_layer(traced: Trace) -> str:
    """The layer that is explained unless another is named.

    It is the last one on the image's grid whose every point the prediction looks at: not behind
    global pooling, and in a transformer not behind the last attention, where the class token alone
    goes on, nor in it, where queries, keys and values are each but a part of what a token says.
    Where the model answers for every point, as in segmentation, it is the last one on the coarsest
    grid (Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434), which is not the answer.

    Where several modules return that same value, it is the outermost one (`layer4`, not
    `layer4.2.relu`).

    Raises:
        ExportError: no layer gives a map or a grid of tokens.
    """
    candidates = _candidates(traced)
    if not candidates:
        raise ExportError(
            "no layer of the model that leads to the prediction gives a map (B, C, H, W) or a grid "
            "of tokens (B, T, C): there is nothing to map. Name a layer to hear what it gives"
        )
    values = dict.fromkeys(candidates.values())
    passed_over = _unfit_in_transformers(traced, values) | _unfit_in_dense_models(traced, values)
    fit = [name for name, value in candidates.items() if value not in passed_over]
    return (fit or list(candidates))[-1]


def _candidates(traced: Trace) -> dict[str, fx.Node]:
    """What the layers return that have a grid before global pooling, the best of them last."""
    graph = traced.graph.graph
    order = {node: position for position, node in enumerate(graph.nodes)}
    pooled = _behind_global_pools(graph)
    found = sorted(
        (order[outputs[0]], -name.count("."), name, outputs[0])
        for name, outputs in returned_by_module(graph).items()
        if isinstance(layout_or_reason(traced, outputs), Layout) and outputs[0] not in pooled
    )
    return {name: value for *_, name, value in found}


def _unfit_in_transformers(traced: Trace, values: Iterable[fx.Node]) -> set[fx.Node]:
    """Tokens that are not read or are mere projections, and beside them what only looks like a map.

    The queries of an attention's heads, (B, heads, T, C), have as many axes as a map has.
    """
    layouts = {value: layout_of(traced, value) for value in values}
    tokens = [value for value, layout in layouts.items() if layout.kind == "tokens"]
    if not tokens:
        return set()
    linear = {value for value in tokens if value.target is torch.ops.aten.linear.default}
    odd = {value for value in layouts if not is_in_proportion(value, traced.size)} - set(tokens)
    return _unread(traced, layouts) | linear | _one_sided(traced.graph.graph, layouts) | odd


def _one_sided(graph: fx.Graph, values: Iterable[fx.Node]) -> set[fx.Node]:
    """What goes nowhere but into one side of an attention's product: queries, keys or values.

    Linear operators make them, or convolutions (CvT), of which they come as maps.
    """
    data = set(graph.find_nodes(op="placeholder"))
    for node in graph.nodes:
        if not data.isdisjoint(node.all_input_nodes):
            data.add(node)
    # Where the ways from each value end: in a side of a product, or in the outputs. Two will do.
    ends: dict[fx.Node, set[tuple[fx.Node, int]]] = {}
    for node in reversed(graph.nodes):
        found = {(node, 0)} if node.op == "output" else set()
        for user in node.users:
            inputs = tree_leaves(user.args)
            if user.target in _PRODUCTS and len(data.intersection(inputs)) > 1:
                found |= {(user, side) for side, value in enumerate(inputs) if value is node}
            else:
                found |= ends[user]
        ends[node] = set(list(found)[:2])
    return {
        value
        for value in values
        if len(ends[value]) == 1 and all(end.op != "output" for end, _ in ends[value])
    }


def _unfit_in_dense_models(traced: Trace, values: Iterable[fx.Node]) -> set[fx.Node]:
    """Where the model returns maps: these, and all that lies on a finer grid than the coarsest."""
    answers = {
        output for output in outputs_of(traced.graph) if is_in_proportion(output, traced.size)
    }
    if not answers:
        return set()
    pending = list(answers)
    while pending:
        answer = pending.pop()
        if answer.target in _RESIZES and answer.all_input_nodes[0] not in answers:
            answers.add(answer.all_input_nodes[0])
            pending.append(answer.all_input_nodes[0])
    points = {value: _points(value, layout_of(traced, value)) for value in values}
    coarsest = min((n for value, n in points.items() if value not in answers), default=0)
    return answers | {value for value, n in points.items() if n > coarsest}


def _points(value: fx.Node, layout: Layout) -> int:
    if layout.kind == "tokens":
        return math.prod(layout.grid)
    sizes = sizes_of(value)
    return math.prod(sizes[1:-1] if layout.kind == "channels_last" else sizes[2:])


def _unread(traced: Trace, layouts: Mapping[fx.Node, Layout]) -> set[fx.Node]:
    """Those values most points of which have no influence on what is explained.

    Told by one pass back from random scores to all of them, for it is the model's business how its
    tokens meet. A model may return its last tokens as well (CLIP), which is no reason to take them.
    """
    generator = torch.Generator().manual_seed(20182)
    run = _Perturbing(traced.graph, layouts)
    with torch.enable_grad():
        *_, explained = tree_leaves(run.run(*random_inputs(traced.graph, generator)))
        score = (explained * random_like(explained, generator)).sum()
        deltas = [run.deltas[value] for value in layouts]
        gradients = torch.autograd.grad(score, deltas, allow_unused=True, materialize_grads=True)
    points = {
        value: layout.channels_first(gradient)
        for (value, layout), gradient in zip(layouts.items(), gradients, strict=True)
    }
    return {
        value
        for value, gradient in points.items()
        if (gradient != 0).any(dim=1).float().mean() < 0.5
    }


class _Perturbing(fx.Interpreter):
    """Runs a graph, and adds to some of its values a zero that has the value's gradient.

    Weights that are all zero, as fresh classifiers are, are replaced by some others: the way
    through them is what is asked for.
    """

    def __init__(self, graph: fx.GraphModule, nodes: Iterable[fx.Node]) -> None:
        super().__init__(graph)
        self.deltas: dict[fx.Node, Tensor] = dict.fromkeys(nodes, torch.empty(0))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "get_attr" and isinstance(value, Tensor) and value.ndim > 1 and not value.any():
            value = torch.arange(value.numel(), device=value.device).cos().reshape(value.shape)
        if n in self.deltas:
            self.deltas[n] = torch.zeros_like(value, requires_grad=True)
            value = value + self.deltas[n]
        return value


def _behind_global_pools(graph: fx.Graph) -> set[fx.Node]:
    """Values made of globally pooled ones alone, not the product of such a one with a map."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = [value for value in node.all_input_nodes if value.op != "get_attr"]
        if node.target in _GLOBAL_POOLS or (inputs and all(value in found for value in inputs)):
            found.add(node)
    return found
