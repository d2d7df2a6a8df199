"""Ablation by update: what the first linear operators behind a layer give, less one channel.

Such an operator need not run again for each channel that is left out: the channel's contribution
is taken away from what the operator gives with all of them. Operators that treat each channel by
itself, such as ReLU or pooling, may stand between the layer and it.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from camcore.ablation import take_channels
from camcore.export.cut import batch_symbol, between
from camcore.export.find.affine import operator_of
from camcore.export.find.grids import Layout
from camcore.export.trace.graphs import per_axis

aten = torch.ops.aten

# Each channel of the result follows from the same channel of the first argument: of any shape ...
ELEMENTWISE = {
    aten.relu,
    aten.leaky_relu,
    aten.elu,
    aten.gelu,
    aten.silu,
    aten.sigmoid,
    aten.tanh,
    aten.hardtanh,
    aten.hardswish,
    aten.hardsigmoid,
    aten.clone,
}
# ... and of maps (B, C, H, W) alone, for they pool the last two axes.
_POOLS = {aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d}
_RESHAPES = {aten.view.default, aten.reshape.default, aten.flatten.using_ints}
_CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
_BATCH_NORM = aten._native_batch_norm_legit_no_training.default


class Steps(NamedTuple):
    """How a convolution walks over its input, a number for each axis of space."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]


class Norm(NamedTuple):
    """What of a batch normalisation scales its input, by name: gamma / sqrt(variance + eps)."""

    gamma: str | None
    variance: str
    eps: float


class Mixture(NamedTuple):
    """A convolution, or a linear layer on flattened maps, and the batch norm behind it, if any.

    `weight` is the name of (O, C, *kernel), or of (O, C times the points of a map), which is a
    linear layer's; that has no `steps`.
    """

    weight: str
    steps: Steps | None
    norm: Norm | None

    def pick(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that it needs, of all that a model has."""
        norm = () if self.norm is None else (self.norm.gamma, self.norm.variance)
        return {name: weights[name] for name in (self.weight, *norm) if name is not None}


class Updates(NamedTuple):
    """What can be told without a channel of an activation.

    `ends` are values of the graph, `mixtures` what gives them, and `prefix` leads from the
    activation (B, C, *S) to what goes into each, (B, C, *S'), channel by channel.
    """

    ends: tuple[fx.Node, ...]
    prefix: fx.GraphModule
    mixtures: tuple[Mixture, ...]


def find_updates(graph: fx.GraphModule, activation: fx.Node, layout: Layout) -> Updates:
    """All that a graph has behind an activation, and maybe there is nothing."""
    channels_first = layout.kind == "channels_first"
    found = list(_mixtures(graph, activation, activation)) if channels_first else []
    prefix = between(graph, activation, [source for source, _, _ in found])
    return Updates(tuple(end for _, end, _ in found), prefix, tuple(mix for _, _, mix in found))


def contributions(prefix: fx.GraphModule, activation: Tensor, value: float) -> list[Tensor]:
    """What goes into each mixture, less what would with every channel set to `value`."""
    with_none = torch.full_like(activation, value)
    return [a - b for a, b in zip(prefix(activation), prefix(with_none), strict=True)]


def leave_out(
    mixture: Mixture,
    weights: Mapping[str, Tensor],
    result: Tensor,
    contribution: Tensor,
    channels: Tensor,
) -> Tensor:
    """A mixture's result without each of n channels, (n, B, O, *S').

    Args:
        mixture: with its `weights`.
        result: what it gives with all channels, (B, O, *S').
        contribution: what each channel adds to what goes in, (B, C, *S).
        channels: their numbers, (n,) of each image (B, n) or of all (1, n); outside 0 to C - 1
            nothing is left out.
    """
    weight = weights[mixture.weight]
    if mixture.steps is None:
        contribution = contribution.reshape(*contribution.shape[:2], -1)
    alone = take_channels(contribution, channels, spatial_ndim=contribution.ndim - 2)
    patches = _patches(alone.movedim(1, 0), weight.shape[2:], mixture.steps)
    if weight.shape[1] != contribution.shape[1]:
        weight = weight.reshape(len(weight), contribution.shape[1], -1)
    # As matrices (n, B or 1, O, points of the kernel).
    columns = weight.index_select(1, channels.clamp(min=0).flatten())
    columns = columns.reshape(len(weight), *channels.shape, -1).permute(2, 1, 0, 3)
    if mixture.norm is not None:
        columns = columns * _scale(mixture.norm, weights)[:, None]
    without: Tensor = result - (columns @ patches).reshape(-1, *result.shape)
    return without


def _scale(norm: Norm, weights: Mapping[str, Tensor]) -> Tensor:
    scale = torch.rsqrt(weights[norm.variance] + norm.eps)
    return scale if norm.gamma is None else scale * weights[norm.gamma]


# What goes into a mixture, what comes out, and the mixture.
_Found = tuple[fx.Node, fx.Node, Mixture]


def _mixtures(graph: fx.GraphModule, source: fx.Node, node: fx.Node) -> Iterator[_Found]:
    """Those behind a node that is the source (B, C, *S) itself, or the source as rows (B, C S)."""
    batch = batch_symbol(source.meta["val"])
    for user in node.users:
        if user.args[0] is not node:
            continue
        if node is source and _treats_each_channel(user):
            value = _normalised(user) if user.target is _BATCH_NORM else user
            if value is not None:
                yield from _mixtures(graph, value, value)
        elif user.target in _RESHAPES:
            rows = user.meta["val"]
            if rows.ndim == 2 and batch_symbol(rows) == batch:
                yield from _mixtures(graph, source, user)
        elif user.target in _CONVOLUTIONS and node is source:
            yield from _convolution(graph, source, user)
        elif user.target is aten.linear.default and node.meta["val"].ndim == 2:
            yield from _mixture(graph, source, user, None)


def _treats_each_channel(node: fx.Node) -> bool:
    x, *others = node.all_input_nodes
    rank = x.meta["val"].ndim
    if node.target is _BATCH_NORM:
        return all(value.op == "get_attr" for value in others)
    if others:
        return False
    if node.target is aten.mean.dim:
        axes: Any = node.args[1]
        return all(axis % rank > 1 for axis in axes)
    called = operator_of(node)
    return called in ELEMENTWISE or (called in _POOLS and rank == 4)


def _normalised(norm: fx.Node) -> fx.Node | None:
    """The first value that a batch norm returns, if that is the only one in use."""
    first, *others = norm.users
    return None if others or first.args[1] != 0 else first


def _convolution(graph: fx.GraphModule, source: fx.Node, node: fx.Node) -> Iterator[_Found]:
    defaults = (None, None, None, [1], [0], [1], 1)
    found: Any = (*node.args, *defaults[len(node.args) :])
    _, _, _, stride, padding, dilation, groups = found
    if groups == 1:
        rank = source.meta["val"].ndim - 2
        steps = Steps(*(per_axis(each, rank) for each in (stride, padding, dilation)))
        yield from _mixture(graph, source, node, steps)


def _mixture(
    graph: fx.GraphModule, source: fx.Node, node: fx.Node, steps: Steps | None
) -> Iterator[_Found]:
    """The node's, with the batch norm behind it, if nothing else uses what the node gives."""
    weight = _name(graph, node.args[1])
    if weight is None:
        return
    norm, *others = node.users
    end = _normalised(norm) if norm.target is _BATCH_NORM and not others else None
    if end is not None:
        found: Any = norm.args
        _, gamma, _, _, variance, _, eps = found
        names = _name(graph, gamma), _name(graph, variance)
        if names[1] is not None and (names[0] is not None or gamma is None):
            yield source, end, Mixture(weight, steps, Norm(names[0], names[1], eps))
            return
    yield source, node, Mixture(weight, steps, None)


def _name(graph: fx.GraphModule, node: Any) -> str | None:
    """The name of a weight that nothing else uses: a loop must not be given it twice."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    same = graph.graph.find_nodes(op="get_attr", target=node.target)
    return str(node.target) if sum(len(each.users) for each in same) == 1 else None


def _patches(x: Tensor, kernel: Sequence[int], steps: Steps | None) -> Tensor:
    """What a kernel is multiplied with at each place, (..., points of the kernel, places)."""
    if steps is None:
        return x[..., None]
    rank = len(kernel)
    margins = [margin for margin in reversed(steps.padding) for _ in range(2)]
    padded = F.pad(x, margins) if any(margins) else x
    axes = range(-rank, 0)
    spans = [step * (points - 1) for step, points in zip(steps.dilation, kernel, strict=True)]
    lengths = [padded.shape[axis] - span for axis, span in zip(axes, spans, strict=True)]
    taps: list[Tensor] = []
    for point in itertools.product(*map(range, kernel)):
        starts = [n * step for n, step in zip(point, steps.dilation, strict=True)]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        window: Any = (..., *map(slice, starts, ends, steps.stride))
        taps.append(padded[window])
    return torch.stack(taps, dim=-1 - rank).flatten(-rank)
