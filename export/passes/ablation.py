"""Passes without a channel: Ablation-CAM."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, fx

from camcore.ablation import ablate, channels_to_ablate, linear_ablation, share, take_channels
from camcore.export.cut import Cut, cut
from camcore.export.find.grids import Layout
from camcore.export.find.updates import Updates, contributions, find_updates, leave_out
from camcore.export.gradient.body import Passed
from camcore.export.passes.body import PassesBody
from camcore.export.passes.linear import LinearBody
from camcore.export.passes.loops import Resumed, Size, stack_chunks, weights_of
from camcore.export.request import Found, Request


class Ablated(NamedTuple):
    """An activation and what crosses beside it: what the `mixed` operators give, and the others.

    `chosen` are the numbers (B, m) of the channels to ablate, (1, m) where they are the same for
    all images.
    """

    activation: Tensor
    mixed: list[Tensor]
    crossing: list[Any]
    chosen: Tensor


class AblationBody(PassesBody[Ablated]):
    """Ablation-CAM: a pass of the tail for each channel, without it, and one with all of them.

    The graph is cut at the activation and at what can be told without a channel. The prediction's
    own pass is not compared with, for runtimes round it in another way: channels that hold nothing
    would get weights, and small drops wrong ones.
    """

    def __init__(self, request: Request, found: Found, parts: Cut, updates: Updates) -> None:
        super().__init__(request, found, parts)
        self.prefix = updates.prefix
        self._mixtures = updates.mixtures

    @classmethod
    def at(
        cls, node: fx.Node, parts: Cut, graph: fx.GraphModule, request: Request, found: Found
    ) -> Self:
        (layout,) = found.layouts
        updates = find_updates(graph, node, layout)
        begin = [node, *updates.ends]
        return cls(request, found, cut(graph, at=begin, kept=begin), updates)

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Ablated]:
        (layout,) = self.layouts
        observed, (_, activation, others) = self._predict(inputs)
        chosen = _ablated_channels(self.request, layout.channels_first(activation))
        count = len(self._mixtures)
        return observed, Ablated(activation, others[:count], others[count:], chosen)

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        return 1 + share(request.options["ratio"], channels)

    def run_passes(self, seen: Ablated, classes: Tensor, resumed: Resumed | None = None) -> Tensor:
        (layout,) = self.layouts
        activation, mixed, crossing, chosen = seen
        value, of_model = self.request.options["value"], weights_of(self.head)
        no_channel = chosen.new_full((chosen.shape[0], 1), -1)

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, of_mixtures, activation, mixed, added, crossing, table, classes = values
            channels = table.index_select(1, numbers.clamp(max=table.shape[1] - 1))
            begin = [_ablate(activation, channels, layout, value=value)]
            for given in zip(self._mixtures, of_mixtures, mixed, added, strict=True):
                begin.append(leave_out(*given, channels))
            return self._explained(self._score_activations(weights, begin, crossing), classes)

        table = torch.cat([no_channel, chosen], dim=1)
        added = contributions(self.prefix, activation, value)
        of_mixtures = [mixture.pick(of_model) for mixture in self._mixtures]
        weights = weights_of(self.tail)
        values = (weights, of_mixtures, activation, mixed, added, crossing, table, classes)
        return stack_chunks(step, values, table.shape[1], self.plan.chunk, resumed)

    def maps_of(self, seen: Ablated, state: Tensor) -> Tensor:
        (kernel,), (layout,) = self._kernels, self.layouts
        scores, activations = state.permute(2, 1, 0), layout.channels_first(seen.activation)
        if self.request.options["ratio"] < 1:
            rank = layout.spatial_ndim
            activations = take_channels(activations, seen.chosen, spatial_ndim=rank)
        maps: Tensor = kernel(activations, scores[..., 0], scores[..., 1:])
        return maps.transpose(0, 1)


class LinearAblationBody(LinearBody):
    """Ablation-CAM where the tail is linear."""

    def raw_maps(self, seen: Passed, classes: Tensor) -> list[Tensor]:
        (kernel,), (layout,) = self._kernels, self.layouts
        activation, found, score = self._evidence(seen, classes)
        values, gradients = (_channels_second(each, layout) for each in (activation, found))
        ablated = linear_ablation(
            values,
            gradients.reshape(*score.shape, *values.shape[1:]),
            score,
            spatial_ndim=activation.ndim - 2,
        )
        activations = layout.channels_first(activation)
        if self.request.options["ratio"] < 1:
            chosen = _ablated_channels(self.request, activations)
            ablated = ablated.gather(2, chosen.expand(ablated.shape[0], -1, -1))
            activations = take_channels(activations, chosen, spatial_ndim=layout.spatial_ndim)
        return [kernel(activations, score, ablated).transpose(0, 1)]


def _ablated_channels(request: Request, activations: Tensor) -> Tensor:
    """The numbers (B, m) of the channels to ablate of activations (B, C, *S); (1, C) for all."""
    ratio, rank = request.options["ratio"], activations.ndim - 2
    if ratio == 1:
        return torch.arange(activations.shape[1], device=activations.device)[None]
    chosen: Tensor = channels_to_ablate(activations, ratio=ratio, spatial_ndim=rank)
    return chosen


def _channels_second(values: Tensor, layout: Layout) -> Tensor:
    """(B, C, ...) with all that the layer returned, class tokens too."""
    return values if layout.kind == "channels_first" else values.movedim(-1, 1)


def _ablate(activation: Tensor, channels: Tensor, layout: Layout, *, value: float) -> Tensor:
    """(n, B, ...) in the layer's own layout, from channels (B, n): from every token, too."""
    second = _channels_second(activation, layout)
    ablated: Tensor = ablate(second, channels, value=value, spatial_ndim=second.ndim - 2)
    return ablated if layout.kind == "channels_first" else ablated.movedim(2, -1)
