"""The reference of activations alone."""

from torch import Tensor

from camcore.export.prove.eager import Eager, Run


class Activations(Eager):
    """Maps that no class has a say in."""

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        pairs = zip(self.kernels(), self.activations(run), strict=True)
        return [kernel(activation) for kernel, activation in pairs]
