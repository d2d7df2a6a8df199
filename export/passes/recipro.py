"""Passes of one point or token by itself: Recipro-CAM."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from camcore.export.gradient.body import Passed
from camcore.export.passes.body import PassesBody, Prediction
from camcore.export.passes.linear import LinearBody
from camcore.export.passes.loops import Resumed, Size, stack_chunks, weights_of
from camcore.export.request import Request
from camcore.masking import linear_reciprocam, point_masks, reciprocam


class ReciproBody(PassesBody[Prediction]):
    """Recipro-CAM: a pass of the tail for each point, with the rest of the activation cleared."""

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        return math.prod(grid)

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Prediction]:
        return self._predict(inputs)

    def run_passes(
        self, seen: Prediction, classes: Tensor, resumed: Resumed | None = None
    ) -> Tensor:
        (layout,), gaussian = self.layouts, self.request.options["gaussian"]
        _, activation, crossing = seen
        grid = tuple(layout.channels_first(activation).shape[2:])

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, activation, crossing, grid, classes = values
            masks = point_masks(numbers, grid, activation, gaussian=gaussian)
            masked = activation * layout.mask(masks)
            return self._explained(self._score_activations(weights, [masked], crossing), classes)

        values = (weights_of(self.tail), activation, crossing, grid, classes)
        return stack_chunks(step, values, math.prod(grid), self.plan.chunk, resumed)

    def maps_of(self, seen: Prediction, state: Tensor) -> Tensor:
        (layout,) = self.layouts
        grid = tuple(layout.channels_first(seen.activation).shape[2:])
        maps: Tensor = reciprocam(state.permute(1, 2, 0), grid)
        return maps


class LinearReciproBody(LinearBody):
    """Recipro-CAM where the tail is linear."""

    def raw_maps(self, seen: Passed, classes: Tensor) -> list[Tensor]:
        (layout,) = self.layouts
        activation, found, score = self._evidence(seen, classes)
        (gradients,) = self._by_class([found], score.shape)
        maps: Tensor = linear_reciprocam(
            layout.channels_first(activation),
            gradients,
            score,
            gaussian=self.request.options["gaussian"],
            spatial_ndim=layout.spatial_ndim,
        )
        return [maps.transpose(0, 1)]
