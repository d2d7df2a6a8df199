"""Passes of the image behind a channel as its mask: Score-CAM and its relatives."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from camcore.ablation import take_channels
from camcore.export.passes.body import PassesBody
from camcore.export.passes.loops import Resumed, Size, stack_chunks
from camcore.export.request import Request
from camcore.masking import iscam_masks, score_masks, sscam_masks, strongest_channels


class Masks(NamedTuple):
    """The model's inputs, and the activations (B, C, *S) that become masks of its images."""

    inputs: Sequence[Tensor]
    activations: Tensor


class ScoreBody(PassesBody[Masks]):
    """Score-CAM and its relatives: a pass of the model for each channel, as a mask of the image."""

    masks_image = True

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        options = request.options
        return options.get("samples", 1) * (options["channels"] or channels)  # type: ignore[no-any-return]

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Masks]:
        (layout,) = self.layouts
        observed, (_, activation, _) = self._predict(inputs)
        activations, rank = layout.channels_first(activation), layout.spatial_ndim
        if self.request.options["channels"] is not None:
            count = self.request.options["channels"]
            chosen = strongest_channels(activations, count=count, spatial_ndim=rank)
            activations = take_channels(activations, chosen, spatial_ndim=rank)
        return observed, Masks(inputs, activations)

    def run_passes(self, seen: Masks, classes: Tensor, resumed: Resumed | None = None) -> Tensor:
        (layout,), options = self.layouts, self.request.options
        inputs, activations = seen
        rank, count = layout.spatial_ndim, activations.shape[1]

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
        return stack_chunks(step, values, passes, self.plan.chunk, resumed)

    def maps_of(self, seen: Masks, state: Tensor) -> Tensor:
        (kernel,), activations = self._kernels, seen.activations
        scores = state.permute(2, 1, 0)
        if "samples" in self.request.options:
            scores = scores.reshape(*scores.shape[:2], -1, activations.shape[1])
            scores = scores.movedim(2, 0)
        maps: Tensor = kernel(activations, scores)
        return maps.transpose(0, 1)

    def _varied(self, masks: Tensor, numbers: Tensor, samples: Tensor) -> Tensor:
        options, rank = self.request.options, self.layouts[0].spatial_ndim
        varied: Tensor = masks
        if self.request.method.name == "sscam":
            noise = {name: options[name] for name in ("std", "seed")}
            varied = sscam_masks(masks, numbers, spatial_ndim=rank, **noise)
        elif self.request.method.name == "iscam":
            varied = iscam_masks(masks, samples, n_samples=options["samples"], spatial_ndim=rank)
        return varied
