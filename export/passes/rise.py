"""Passes of the image behind a random mask: RISE."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camcore.export.passes.body import PassesBody, Prediction
from camcore.export.passes.loops import Resumed, Size, sum_chunks
from camcore.export.request import Request
from camcore.masking import rise_map, rise_masks
from camcore.weighting import weighted_sum


class RiseBody(PassesBody[Prediction]):
    """RISE: a pass of the model for each of many random masks of the image.

    The state is the sum of the masks, each times its score.
    """

    state_axes = ("batch", "classes", "height", "width")
    masks_image = True

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        count: int = request.options["n_masks"]
        return count

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Prediction]:
        return self._predict(inputs)

    def run_passes(
        self, seen: Prediction, classes: Tensor, resumed: Resumed | None = None
    ) -> Tensor:
        options, image = self.request.options, seen.activation
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
        values = (self._model_weights(), seen.inputs, classes)
        return sum_chunks(step, values, count, self.plan.chunk, start, resumed)

    def maps_of(self, seen: Prediction, state: Tensor) -> Tensor:
        options = self.request.options
        maps: Tensor = rise_map(
            state, n_masks=options["n_masks"], probability=options["probability"]
        )
        return maps
