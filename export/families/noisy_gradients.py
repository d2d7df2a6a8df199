"""Gradients at noisy copies of the image: Smooth Grad-CAM++."""

from collections.abc import Sequence

import torch
from torch import Tensor

from camcore.errors import InputError
from camcore.export.families.family import Composed, Family, check_sizes
from camcore.export.families.gradients import compose_with
from camcore.export.gradient.body import GradientBody, Passed
from camcore.export.request import Request
from camcore.export.trace.trace import Trace
from camcore.noise import normal_noise


class NoisyBody(GradientBody):
    """Raw maps from the gradients at noisy copies of the image, which go through in one batch."""

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Passed]:
        observed, plain = super().observe(inputs)
        noisy = noisy_inputs(self.request, inputs)
        copies = [torch.cat([row[n] for row in noisy]) for n in range(len(inputs))]
        _, of_copies = super().observe(copies)
        return observed, plain._replace(saved=of_copies.saved)

    def raw_maps(self, seen: Passed, classes: Tensor) -> list[Tensor]:
        # Class by class, and for each the samples one after the other.
        rows = classes.t().unsqueeze(1).repeat(1, self.request.options["samples"], 1)
        found = self._pass_back(seen.saved, rows)
        return [
            kernel(activation, gradient.movedim(1, 0)).transpose(0, 1)
            for kernel, activation, gradient in zip(
                self._kernels,
                self._channels_first(seen.activations),
                self._by_class(found, rows.shape),
                strict=True,
            )
        ]


def noisy_inputs(request: Request, inputs: Sequence[Tensor]) -> list[list[Tensor]]:
    """The inputs once for each sample, with noise on the image: the same for every image."""
    image, *others = inputs
    options = request.options
    shape = (options["samples"], *image.shape[1:])
    noise = options["std"] * normal_noise(image, shape, seed=options["seed"])
    return [[image + each, *others] for each in noise.unbind()]


def _check(request: Request) -> None:
    check_sizes(request)
    if request.aug_smooth:
        raise InputError(f"{request.method.name} adds noise to the images: leave out aug_smooth")


def _compose(request: Request, traced: Trace) -> Composed:
    return compose_with(NoisyBody, request, traced)


FAMILY = Family(_compose, _check)
