"""The reference of second order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from camcore.errors import ExportError
from camcore.export.prove.eager import Eager, Run
from camcore.export.prove.watch import twice_differentiable
from camcore.export.trace.graphs import first_line


class SecondOrder(Eager):
    """Maps of a layer's gradient, and of its Hessian's product with what the layer returned."""

    def call(self, image: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with twice_differentiable():
            return super().call(image, others)

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        (kernel,), (activation,) = self.kernels(), self.activations(run)
        evidence = [*self.gradients(run, classes), self._hessian_product(run, classes)]
        (layout,) = self.found.layouts
        return [kernel(activation, *map(layout.channels_first, evidence))]

    def _hessian_product(self, run: Run, classes: Tensor) -> Tensor:
        """Second derivatives of what is explained at the one layer, times the activation."""
        (layer,) = run.layers
        value, delta = layer.value, layer.delta
        with torch.enable_grad():
            total = self.explained(run, classes)
            (gradient,) = torch.autograd.grad(total, delta, create_graph=True)
        if not gradient.requires_grad:
            return torch.zeros_like(value)
        try:
            product: Tensor
            (product,) = torch.autograd.grad(
                gradient, delta, value, retain_graph=True, materialize_grads=True
            )
        except RuntimeError as error:
            raise ExportError(
                "PyTorch has no second derivatives of the model, beside which the file's could be "
                f"proven: {first_line(error)}. Choose a later layer, or another method"
            ) from error
        return product
