"""Masked: many runs of a detector, each without something, and what they tell of its detections.

Every run is whole, to the last non-maximum suppression, in a loop of the graph. All detections
share the runs.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from camcore.ablation import ablate, channels_to_ablate, share, take_channels
from camcore.export.cut import cut
from camcore.export.detectors.geometry import Framing
from camcore.export.detectors.matches import first_detections, match
from camcore.export.detectors.parts import rectified
from camcore.export.detectors.pyramid import Pyramid, find_pyramid, join, placed
from camcore.export.detectors.whole import OUTPUTS
from camcore.export.families import family_of
from camcore.export.passes.loops import stack_chunks, sum_chunks, weights_of
from camcore.export.request import Request
from camcore.export.trace.graphs import outputs_of, return_values
from camcore.masking import rise_masks


class _MaskedBody(nn.Module):
    """From an image (1, C, H, W) to all that the detector finds, and `detection_maps` (N, H, W) of
    the first detections, or `saliency_map` (1, 1, H, W) of all those together.
    """

    def __init__(self, request: Request) -> None:
        super().__init__()
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)

    @property
    def runs(self) -> int:
        """How many runs of the detector, or of what follows the levels, a map takes."""
        raise NotImplementedError

    @property
    def _together(self) -> bool:
        (request,) = self._request
        return request.subject.target.name == "matches"

    def _given(self, found: Sequence[Tensor], maps: Tensor) -> tuple[Tensor, ...]:
        """What the body returns, from maps (M, H, W), or (1, H, W) of all together."""
        if self._together:
            return *found, maps[None]
        (request,) = self._request
        count = found[0][: request.top].shape[0]
        return *found, maps.index_select(0, torch.arange(count, device=maps.device))


class AblationOfDetections(_MaskedBody):
    """Ablation-CAM of the joined levels of a pyramid: a run of what follows them for each channel,
    without it, and one with all of them.

    Args:
        head: gives `(*levels, *crossing)`; `tail` makes of those all that is found, `scoring` the
            boxes, labels and scores alone.
    """

    def __init__(
        self,
        head: nn.Module,
        tail: nn.Module,
        scoring: nn.Module,
        pyramid: Pyramid,
        request: Request,
        framing: Framing,
    ) -> None:
        super().__init__(request)
        self.head, self.tail, self.scoring = head, tail, scoring
        self._coarsest, self._channels = pyramid.coarsest, pyramid.channels
        self._framing = framing

    @property
    def runs(self) -> int:
        (request,) = self._request
        return 1 + share(request.options["ratio"], sum(self._channels))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (request,) = self._request
        options = request.options
        returned = self.head(image)
        levels, crossing = returned[: len(self._channels)], returned[len(self._channels) :]
        found = self.tail(*levels, *crossing)
        joined = join(levels, self._coarsest)
        chosen = torch.arange(joined.shape[1], device=joined.device)
        if options["ratio"] < 1:
            (chosen,) = channels_to_ablate(joined, ratio=options["ratio"])
        starts = [sum(self._channels[:n]) for n in range(len(self._channels))]

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, table, levels, crossing, boxes, labels = values
            channel = table.index_select(0, numbers)
            # A number that is none of a level's leaves that as it is.
            without = [
                ablate(level, channel - start, value=options["value"])[0]
                for level, start in zip(levels, starts, strict=True)
            ]
            again = functional_call(self.scoring, weights, (*without, *crossing))
            return match(boxes, labels, again)[None]

        table = torch.cat([chosen.new_full((1,), -1), chosen])
        boxes, labels = first_detections(found, request.top)
        values = (weights_of(self.scoring), table, levels, crossing, boxes, labels)
        scores = stack_chunks(step, values, table.shape[0], 1).transpose(0, 1)
        if self._together:
            scores = scores.sum(0, keepdim=True)
        activations = [take_channels(joined, chosen)]
        if request.combine == "max":
            activations = [
                _own_channels(level.abs(), chosen - start)
                for level, start in zip(levels, starts, strict=True)
            ]
        kernel = partial(
            request.method.kernel,
            **{k: v for k, v in options.items() if k not in request.method.sampling},
        )
        raw = [kernel(each, scores[:, 0], scores[:, 1:]) for each in activations]
        return self._given(found, placed(raw, self._framing(image), request))


def _own_channels(level: Tensor, channels: Tensor) -> Tensor:
    """Channels (m,) of a level (1, C, h, w), zeros where a number is none of its own."""
    own = (channels >= 0) & (channels < level.shape[1])
    taken: Tensor = take_channels(level, channels.clamp(0, level.shape[1] - 1))
    return taken * own[:, None, None]


class RandomlyMasked(_MaskedBody):
    """RISE of detections, as D-RISE: a run of the detector for each of many random masks.

    Args:
        detector: gives all that is found, `scoring` the boxes, labels and scores alone.
    """

    def __init__(self, detector: nn.Module, scoring: nn.Module, request: Request) -> None:
        super().__init__(request)
        self.detector, self.scoring = detector, scoring

    @property
    def runs(self) -> int:
        (request,) = self._request
        count: int = request.options["n_masks"]
        return count

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (request,) = self._request
        options = request.options
        found = self.detector(image)
        kinds = {name: options[name] for name in ("cells", "probability", "seed")}

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, image, boxes, labels = values
            masks = rise_masks(numbers, tuple(image.shape[2:]), image, **kinds)
            again = functional_call(self.scoring, weights, (image * masks,))
            added: Tensor = match(boxes, labels, again)[:, None, None] * masks
            return added

        boxes, labels = first_detections(found, request.top)
        values = (weights_of(self.scoring), image, boxes, labels)
        start = image.new_zeros(request.top, *image.shape[2:])
        sums = sum_chunks(step, values, options["n_masks"], 1, start)
        if self._together:
            sums = sums.sum(0, keepdim=True)
        kernel = {name: options[name] for name in ("n_masks", "probability")}
        raw = request.method.kernel(sums, **kernel)
        return self._given(found, rectified(request, raw))


def compose_masked(
    graph: fx.GraphModule, layers: Sequence[str], request: Request, framing: Framing
) -> AblationOfDetections | RandomlyMasked:
    """The body that explains the first `top` detections by runs without something.

    Raises:
        InputError, ExportError: as `find_pyramid`.
    """
    if not family_of(request.method).takes_layers:
        detector = fx.GraphModule(graph, graph.graph)
        return_values(detector, outputs_of(detector))
        return RandomlyMasked(detector, _scoring(detector), request)
    pyramid = find_pyramid(graph, layers, request)
    parts = cut(graph, at=pyramid.levels, kept=pyramid.levels)
    scoring = _scoring(parts.tail)
    return AblationOfDetections(parts.head, parts.tail, scoring, pyramid, request, framing)


def _scoring(graph: fx.GraphModule) -> fx.GraphModule:
    """A graph that returns what one returns first: boxes, labels and scores."""
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph.graph, {}))
    found = fx.GraphModule(graph, copied)
    return_values(found, outputs_of(found)[: len(OUTPUTS)])
    found.graph.eliminate_dead_code()
    found.recompile()
    return found
