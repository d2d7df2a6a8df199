"""The reference of class weights."""

from torch import Tensor

from camcore.export.prove.eager import Eager, Run


class ClassWeights(Eager):
    """Maps of the classifier's weights, as its gradient tells them."""

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        (kernel,), (activation,) = self.kernels(), self.activations(run)
        (gradient,) = self.channels_first(self.gradients(run, classes))
        # Behind global pooling the gradient is constant, the class's weight over the positions.
        return [kernel(activation, gradient.flatten(2).sum(dim=2))]
