"""The reference of gradients at the layers."""

from torch import Tensor

from camcore.export.prove.eager import Eager, Run


class Gradients(Eager):
    """Maps of what each layer returned and of its gradient."""

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        gradients = self.channels_first(self.gradients(run, classes))
        rows = zip(self.kernels(), self.activations(run), gradients, strict=True)
        return [kernel(activation, gradient) for kernel, activation, gradient in rows]
