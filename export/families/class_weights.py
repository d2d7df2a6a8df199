"""Class weights: CAM itself, which reads those of the classifier."""

from collections.abc import Sequence

from torch import Tensor

from camcore.errors import InputError
from camcore.export.body import Body
from camcore.export.cut import Cut
from camcore.export.families.family import Composed, Family, check_sizes, cut_at_layers
from camcore.export.find.classifier import pooled_linear_weight
from camcore.export.find.grids import refuse_frames
from camcore.export.request import Found, Request
from camcore.export.trace.trace import Trace


class ClassWeightBody(Body[Tensor]):
    """Maps from activations and the classifier's weights: no pass but the prediction's.

    `weight` is the name of those, (N, C), in the tail.
    """

    def __init__(self, request: Request, found: Found, parts: Cut, weight: str) -> None:
        super().__init__(request, found)
        self.head, self.tail = parts.head, parts.tail
        self._weight = weight

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        activations, *crossing = self.head(*inputs)
        *observed, _ = self.tail(activations, *crossing)
        return observed, activations

    def raw_maps(self, seen: Tensor, classes: Tensor) -> list[Tensor]:
        (kernel,) = self._kernels
        weight = self.tail.get_buffer(self._weight)
        weights = weight.index_select(0, classes.reshape(-1)).reshape(*classes.shape, -1)
        return [kernel(seen.unsqueeze(1), weights)]


def _check(request: Request) -> None:
    check_sizes(request)
    if len(request.layers) > 1:
        raise InputError(
            f"{request.method.name} explains the one layer before the pooling, got "
            f"{', '.join(request.layers)}"
        )


def _compose(request: Request, traced: Trace) -> Composed:
    layers = cut_at_layers(request, traced)
    refuse_frames(request.method.name, layers.found.layouts)
    weight = pooled_linear_weight(layers.parts.tail, *layers.found.layers)
    return layers.found, ClassWeightBody(request, layers.found, layers.parts, weight)


FAMILY = Family(_compose, _check)
