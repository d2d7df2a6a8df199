"""The reference of biases."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from camcore.errors import ExportError
from camcore.export.prove.eager import Eager, Recorded, Run, as_run
from camcore.export.prove.watch import BiasWatch
from camcore.fullgrad import fullgrad_input


def by_video(rows: Tensor, image: Tensor) -> Tensor:
    """Rows (B * T, C, H, W) as (B, C, T, H, W), of the image's B and T."""
    return rows.reshape(len(image), -1, *rows.shape[1:]).transpose(1, 2)


class Biases(Eager):
    """Maps of the image and of every bias, each with the gradient there."""

    def observe(self, inputs: Sequence[Tensor]) -> Run:
        """A pass of the model, in which every bias that counts is found by watching."""
        image, *others = inputs
        delta = torch.zeros_like(image, requires_grad=True)
        with BiasWatch(delta) as watch:
            returned = self.call(image + delta, others)
        biases = [Recorded(added, zero) for added, zero in watch.reaching(returned[-1])]
        if len(biases) != len(self.found.biases):
            raise ExportError(
                f"{len(biases)} biases are added in eager PyTorch and {len(self.found.biases)} in "
                "the traced graph, so nothing could be proven: the model adds some in a way that "
                "cannot be watched, as in place. Choose another method"
            )
        return as_run(inputs, returned, [Recorded(image, delta), *biases])

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        options = dict(self.request.options, spatial_ndim=self.request.spatial_ndim)
        of_bias = partial(self.request.method.kernel, **options)
        image, *biases = [layer.value for layer in run.layers]
        at_image, *others = self.gradients(run, classes)
        others = [
            by_video(each, image) if layout.frames else each
            for each, layout in zip(others, self.found.layouts[1:], strict=True)
        ]
        pairs = zip(biases, others, strict=True)
        return [fullgrad_input(image, at_image, **options), *[of_bias(*pair) for pair in pairs]]
