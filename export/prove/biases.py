"""The reference of biases."""

from functools import partial

from torch import Tensor

from camcore.export.prove.eager import Eager, Run
from camcore.fullgrad import fullgrad_input


class Biases(Eager):
    """Maps of the image and of every bias, each with the gradient there."""

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        options = dict(self.request.options, spatial_ndim=self.request.spatial_ndim)
        image, *_ = self.activations(run)
        at_image, *others = self.channels_first(self.gradients(run, classes))
        of_bias = partial(self.request.method.kernel, **options)
        pairs = zip(self.found.biases, others, strict=True)
        return [fullgrad_input(image, at_image, **options), *[of_bias(*pair) for pair in pairs]]
