"""The reference of gradients at noisy copies of the image."""

import torch
from torch import Tensor

from camcore.export.families.noisy_gradients import noisy_inputs
from camcore.export.prove.eager import Eager, Run


class NoisyGradients(Eager):
    """Maps of what each layer returned for the image, and of its gradients at each noisy copy."""

    def raw_maps(self, run: Run, classes: Tensor) -> list[Tensor]:
        self._noisy = [self.observe(inputs) for inputs in noisy_inputs(self.request, run.inputs)]
        return super().raw_maps(run, classes)

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        samples = [self.channels_first(self.gradients(noisy, classes)) for noisy in self._noisy]
        rows = zip(self.kernels(), self.activations(run), zip(*samples, strict=True), strict=True)
        return [kernel(activation, torch.stack(found)) for kernel, activation, found in rows]
