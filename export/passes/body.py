"""Bodies of methods that look at the scores of many masked passes, a chunk of them at a time.

A pass is told by a number: of a channel, of a point, of a random mask. A chunk of numbers goes
through as one batch, number by number and for each all images, and all classes share the passes.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from camcore.ablation import ablate, channels_to_ablate, linear_ablation, share, take_channels
from camcore.export.bodies import Body, GradientBody, Request
from camcore.export.cut import Cut, repeat_batch
from camcore.export.find.grids import Layout
from camcore.export.find.updates import Updates, contributions, leave_out
from camcore.export.passes.loops import (
    Resumed,
    Size,
    stack_chunks,
    sum_chunks,
    weights_of,
)
from camcore.masking import (
    iscam_masks,
    linear_reciprocam,
    point_masks,
    reciprocam,
    rise_map,
    rise_masks,
    score_masks,
    sscam_masks,
    strongest_channels,
)
from camcore.targets import select_classes
from camcore.weighting import weighted_sum


class PassesBody(Body):
    """Raw maps from the scores of many passes, of the tail alone or of the whole model.

    `count`, `run_passes` and `maps_of` are a subclass's. What goes from the second to the third is
    the *state*, and all that a run leaves to the next one where passes are taken in steps; its
    axes are `state_axes`.
    """

    state_axes: ClassVar[tuple[str, ...]] = ("passes", "batch", "classes")

    def __init__(self, request: Request, parts: Cut) -> None:
        super().__init__(request)
        self.head, self.tail = parts.head, parts.tail
        self._batch_axes = parts.batch_axes

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        activation, *crossing = self.head(*inputs)
        *observed, scores = self.tail(activation, *crossing)
        return observed, (inputs, activation, crossing, scores)

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        """The number of passes for activations (B, C, *S)."""
        raise NotImplementedError

    def run_passes(self, seen: Any, classes: Tensor, resumed: Resumed | None = None) -> Tensor:
        """The state: what is explained of classes (B, K), pass by pass, unless its axes differ."""
        raise NotImplementedError

    def maps_of(self, seen: Any, state: Tensor) -> Tensor:
        """Raw maps (B, K, *S)."""
        raise NotImplementedError

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        return [self.maps_of(seen, self.run_passes(seen, classes))]

    def resume(
        self, given: Sequence[Tensor], class_ids: Tensor, resumed: Resumed
    ) -> tuple[Tensor, ...]:
        """`(*outputs, classes, saliency_map, state)`: the map is right once every step was."""
        (request,) = self._request
        inputs = request.prepared(given)
        (*outputs, ranking), seen = self.observe(inputs)
        classes = select_classes(ranking, class_ids)
        state = self.run_passes(seen, classes, resumed)
        return *outputs, classes, request.finish([self.maps_of(seen, state)], inputs[0]), state

    def _explained(self, scores: Tensor, classes: Tensor) -> Tensor:
        """What is explained of classes (B, K), (n, B, K), from scores (n B, N) of n passes."""
        (request,) = self._request
        contrast = request.subject.target.contrast
        batch, k = classes.shape
        by_pass = scores.reshape(-1, batch, scores.shape[1])
        ids = classes.expand(by_pass.shape[0], -1, -1)
        if contrast is None:
            return by_pass.gather(2, ids)
        by_class = by_pass[:, :, None].expand(-1, -1, k, -1).flatten(0, 2)
        return contrast(by_class, ids.reshape(-1, 1)).reshape(-1, batch, k)

    def _score_activations(
        self, weights: Any, activations: Sequence[Tensor], crossing: Any
    ) -> Tensor:
        """Scores (n B, N) of what the tail begins with, (n, B, ...), in the layer's own layout."""
        crossing = repeat_batch(crossing, self._batch_axes, activations[0].shape[0])
        given = (*(values.flatten(0, 1) for values in activations), *crossing)
        scores: Tensor = functional_call(self.tail, weights, given)[-1]
        return scores

    def _model_weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return weights_of(self.head), weights_of(self.tail)

    def _score_images(self, weights: Any, images: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Scores (n B, N) of images (n, B, C, H, W)."""
        of_head, of_tail = weights
        others = repeat_batch(others, [0] * len(others), images.shape[0])
        crossing = functional_call(self.head, of_head, (images.flatten(0, 1), *others))
        scores: Tensor = functional_call(self.tail, of_tail, crossing)[-1]
        return scores


class AblationBody(PassesBody):
    """Ablation-CAM: a pass of the tail for each channel, without it, and one with all of them.

    The graph is cut at the activation and at what can be told without a channel. The prediction's
    own pass is not compared with, for runtimes round it in another way: channels that hold nothing
    would get weights, and small drops wrong ones.
    """

    def __init__(self, request: Request, parts: Cut, updates: Updates) -> None:
        super().__init__(request, parts)
        self.prefix = updates.prefix
        self._mixtures = updates.mixtures

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        (request,), (layout,) = self._request, self._layouts
        observed, (_, activation, others, _) = super().observe(inputs)
        chosen = _ablated_channels(request, layout.channels_first(activation))
        count = len(self._mixtures)
        return observed, (activation, others[:count], others[count:], chosen)

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        return 1 + share(request.options["ratio"], channels)

    def run_passes(self, seen: Any, classes: Tensor, resumed: Resumed | None = None) -> Tensor:
        (request,), (layout,) = self._request, self._layouts
        activation, mixed, crossing, chosen = seen
        options, of_model = request.options, weights_of(self.head)
        no_channel = chosen.new_full((chosen.shape[0], 1), -1)

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, of_mixtures, activation, mixed, added, crossing, table, classes = values
            channels = table.index_select(1, numbers.clamp(max=table.shape[1] - 1))
            begin = [_ablate(activation, channels, layout, value=options["value"])]
            for given in zip(self._mixtures, of_mixtures, mixed, added, strict=True):
                begin.append(leave_out(*given, channels))
            return self._explained(self._score_activations(weights, begin, crossing), classes)

        table = torch.cat([no_channel, chosen], dim=1)
        added = contributions(self.prefix, activation, options["value"])
        of_mixtures = [mixture.pick(of_model) for mixture in self._mixtures]
        weights = weights_of(self.tail)
        values = (weights, of_mixtures, activation, mixed, added, crossing, table, classes)
        return stack_chunks(step, values, table.shape[1], options["chunk"], resumed)

    def maps_of(self, seen: Any, state: Tensor) -> Tensor:
        (request,), (kernel,), (layout,) = self._request, self._kernels, self._layouts
        activation, _, _, chosen = seen
        scores, activations = state.permute(2, 1, 0), layout.channels_first(activation)
        if request.options["ratio"] < 1:
            activations = take_channels(activations, chosen, spatial_ndim=layout.spatial_ndim)
        maps: Tensor = kernel(activations, scores[..., 0], scores[..., 1:])
        return maps.transpose(0, 1)


class LinearBody(GradientBody):
    """A tail that is linear in the activation: one pass back tells what every pass would score."""

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        (request,) = self._request
        observed, (activations, saved) = super().observe(inputs)
        return observed, (activations, saved, request.subject.target.explained(observed[-1]))

    def evidence(self, seen: Any, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The activation, its gradients (K B, ...) and scores (K, B), for classes (B, K)."""
        (activation,), saved, scores = seen
        (found,) = self._pass_back(saved, classes.t())
        return activation, found, scores.gather(1, classes).t()


class LinearReciproBody(LinearBody):
    """Recipro-CAM where the tail is linear."""

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        (request,), (layout,) = self._request, self._layouts
        activation, found, score = self.evidence(seen, classes)
        (gradients,) = self._by_class([found], score.shape)
        maps: Tensor = linear_reciprocam(
            layout.channels_first(activation),
            gradients,
            score,
            gaussian=request.options["gaussian"],
            spatial_ndim=layout.spatial_ndim,
        )
        return [maps.transpose(0, 1)]


class LinearAblationBody(LinearBody):
    """Ablation-CAM where the tail is linear."""

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        (request,), (kernel,), (layout,) = self._request, self._kernels, self._layouts
        activation, found, score = self.evidence(seen, classes)
        values, gradients = (_channels_second(each, layout) for each in (activation, found))
        ablated = linear_ablation(
            values,
            gradients.reshape(*score.shape, *values.shape[1:]),
            score,
            spatial_ndim=activation.ndim - 2,
        )
        activations = layout.channels_first(activation)
        if request.options["ratio"] < 1:
            chosen = _ablated_channels(request, activations)
            ablated = ablated.gather(2, chosen.expand(ablated.shape[0], -1, -1))
            activations = take_channels(activations, chosen, spatial_ndim=layout.spatial_ndim)
        return [kernel(activations, score, ablated).transpose(0, 1)]


class ScoreBody(PassesBody):
    """Score-CAM and its relatives: a pass of the model for each channel, as a mask of the image."""

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        options = request.options
        return options.get("samples", 1) * (options["channels"] or channels)  # type: ignore[no-any-return]

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        (request,), (layout,) = self._request, self._layouts
        observed, (_, activation, _, _) = super().observe(inputs)
        activations, rank = layout.channels_first(activation), layout.spatial_ndim
        if request.options["channels"] is not None:
            count = request.options["channels"]
            chosen = strongest_channels(activations, count=count, spatial_ndim=rank)
            activations = take_channels(activations, chosen, spatial_ndim=rank)
        return observed, (inputs, activations)

    def run_passes(self, seen: Any, classes: Tensor, resumed: Resumed | None = None) -> Tensor:
        (request,), (layout,) = self._request, self._layouts
        inputs, activations = seen
        options, rank = request.options, layout.spatial_ndim
        count = activations.shape[1]

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, activations, (image, *others), classes = values
            size = tuple(image.shape[2:])
            channels = take_channels(activations, numbers % count, spatial_ndim=rank)
            masks = score_masks(
                channels, size, align_corners=options["align_corners"], spatial_ndim=rank
            )
            masks = self._varied(masks, numbers, numbers // count)
            images = masks.movedim(1, 0).unsqueeze(2) * image
            return self._explained(self._score_images(weights, images, others), classes)

        values = (self._model_weights(), activations, inputs, classes)
        passes = options.get("samples", 1) * count
        return stack_chunks(step, values, passes, options["chunk"], resumed)

    def maps_of(self, seen: Any, state: Tensor) -> Tensor:
        (request,), (kernel,) = self._request, self._kernels
        _, activations = seen
        scores = state.permute(2, 1, 0)
        if "samples" in request.options:
            scores = scores.reshape(*scores.shape[:2], -1, activations.shape[1])
            scores = scores.movedim(2, 0)
        maps: Tensor = kernel(activations, scores)
        return maps.transpose(0, 1)

    def _varied(self, masks: Tensor, numbers: Tensor, samples: Tensor) -> Tensor:
        (request,) = self._request
        options, rank = request.options, self._layouts[0].spatial_ndim
        varied: Tensor = masks
        if request.method.name == "sscam":
            noise = {name: options[name] for name in ("std", "seed")}
            varied = sscam_masks(masks, numbers, spatial_ndim=rank, **noise)
        elif request.method.name == "iscam":
            varied = iscam_masks(masks, samples, n_samples=options["samples"], spatial_ndim=rank)
        return varied


class ReciproBody(PassesBody):
    """Recipro-CAM: a pass of the tail for each point, with the rest of the activation cleared."""

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        return math.prod(grid)

    def run_passes(self, seen: Any, classes: Tensor, resumed: Resumed | None = None) -> Tensor:
        (request,), (layout,) = self._request, self._layouts
        _, activation, crossing, _ = seen
        options = request.options
        grid = tuple(layout.channels_first(activation).shape[2:])

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, activation, crossing, grid, classes = values
            masks = point_masks(numbers, grid, activation, gaussian=options["gaussian"])
            masked = activation * layout.mask(masks)
            return self._explained(self._score_activations(weights, [masked], crossing), classes)

        values = (weights_of(self.tail), activation, crossing, grid, classes)
        return stack_chunks(step, values, math.prod(grid), options["chunk"], resumed)

    def maps_of(self, seen: Any, state: Tensor) -> Tensor:
        (layout,) = self._layouts
        grid = tuple(layout.channels_first(seen[1]).shape[2:])
        maps: Tensor = reciprocam(state.permute(1, 2, 0), grid)
        return maps


class RiseBody(PassesBody):
    """RISE: a pass of the model for each of many random masks of the image.

    The state is the sum of the masks, each times its score.
    """

    state_axes = ("batch", "classes", "height", "width")

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        count: int = request.options["n_masks"]
        return count

    def run_passes(self, seen: Any, classes: Tensor, resumed: Resumed | None = None) -> Tensor:
        (request,) = self._request
        inputs, image, _, _ = seen
        options = request.options
        count = options["n_masks"]
        kinds = {name: options[name] for name in ("cells", "probability", "seed")}

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, (image, *others), classes = values
            numbers = torch.where(numbers < count, numbers, -1)
            masks = rise_masks(numbers, tuple(image.shape[2:]), image, **kinds)
            images = masks[:, None, None] * image
            scores = self._explained(self._score_images(weights, images, others), classes)
            added: Tensor = weighted_sum(masks, scores.permute(1, 2, 0))
            return added

        start = image.new_zeros(*classes.shape, *image.shape[2:])
        values = (self._model_weights(), inputs, classes)
        return sum_chunks(step, values, count, options["chunk"], start, resumed)

    def maps_of(self, seen: Any, state: Tensor) -> Tensor:
        (request,) = self._request
        options = request.options
        maps: Tensor = rise_map(
            state, n_masks=options["n_masks"], probability=options["probability"]
        )
        return maps


class SteppedBody(nn.Module):
    """A body of many passes that takes them in steps, for whoever wants to see how far it is.

    From `(*inputs, class_ids, steps, state)` to `(*outputs, classes, saliency_map, next_state)`.
    """

    def __init__(self, body: PassesBody) -> None:
        super().__init__()
        self.body = body

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        *inputs, class_ids, steps, state = values
        return self.body.resume(inputs, class_ids, Resumed(steps, state))


PASSES: dict[str, type[PassesBody]] = {
    "ablated_scores": AblationBody,
    "masked_scores": ScoreBody,
    "point_scores": ReciproBody,
    "random_mask_scores": RiseBody,
}
LINEAR_PASSES: dict[str, type[LinearBody]] = {
    "ablated_scores": LinearAblationBody,
    "point_scores": LinearReciproBody,
}


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
