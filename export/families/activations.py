"""Activations alone: EigenCAM, FEM and others, which no class has a say in."""

from collections.abc import Sequence

from torch import Tensor

from camcore.export.body import Body
from camcore.export.cut import Cut
from camcore.export.families.family import Composed, Family, check_sizes, cut_at_layers
from camcore.export.request import Found, Request
from camcore.export.trace.trace import Trace


class ActivationBody(Body[list[Tensor]]):
    """Maps from activations alone, the same for every class: no pass but the prediction's."""

    def __init__(self, request: Request, found: Found, parts: Cut, roots: int) -> None:
        super().__init__(request, found)
        self.head, self.tail = parts.head, parts.tail
        self._roots = roots

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        crossing = self.head(*inputs)
        observed = list(self.tail(*crossing))
        inner = len(self.layouts) - self._roots
        end = len(observed) - inner
        activations = [*crossing[: self._roots], *observed[end:]]
        return observed[: end - 1], activations

    def raw_maps(self, seen: list[Tensor], classes: Tensor) -> list[Tensor]:
        pairs = zip(self._kernels, self._channels_first(seen), strict=True)
        return [kernel(activation).unsqueeze(1) for kernel, activation in pairs]


def _compose(request: Request, traced: Trace) -> Composed:
    layers = cut_at_layers(request, traced)
    return layers.found, ActivationBody(request, layers.found, layers.parts, len(layers.roots))


FAMILY = Family(_compose, check_sizes, of_pyramids=True)
