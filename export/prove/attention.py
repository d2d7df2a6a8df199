"""The reference of attention."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from camcore.export.finish import finish, map_size, unscaled_mean
from camcore.export.prove.eager import Eager, Recorded, Run, as_run
from camcore.export.prove.watch import AttentionWatch


class Attention(Eager):
    """Maps of the gradients at attention weights, which are noted as the model computes them."""

    def observe(self, inputs: Sequence[Tensor]) -> Run:
        image, *others = inputs
        tokens = [layout.prefix + math.prod(layout.grid) for layout in self.found.layouts]
        with AttentionWatch(self.request.subject.user_model, self.found.layers, tokens) as watch:
            returned = self.call(image + torch.zeros_like(image, requires_grad=True), others)
        layers = [Recorded(each.detach(), each) for each in watch.deltas()]
        self._frames = image.shape[2]
        return as_run(inputs, returned, layers)

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        pairs = zip(self.found.layouts, self.gradients(run, classes), strict=True)
        return [
            self.request.method.kernel(
                gradient.reshape(
                    len(classes),
                    *([self._frames] if layout.frames else []),
                    -1,
                    *gradient.shape[-2:],
                ),
                layout.grid,
                prefix_tokens=layout.prefix,
                **self.request.options,
            )
            for layout, gradient in pairs
        ]

    def finish(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        mean = unscaled_mean(maps, self.request.spatial_ndim)
        return finish(self.request, [mean], map_size(self.request, image))
