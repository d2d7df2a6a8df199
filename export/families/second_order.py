"""Second order: ShapleyCAM, which looks at second derivatives at the layer."""

from torch import Tensor

from camcore.errors import InputError
from camcore.export.families.family import Composed, Family, cut_at_layers
from camcore.export.gradient.body import GradientBody, Passed
from camcore.export.gradient.gradient import trace_second_order
from camcore.export.request import Request
from camcore.export.trace.graphs import outputs_of
from camcore.export.trace.trace import Trace


class ShapleyBody(GradientBody):
    """Raw maps from the gradient at a layer and its Hessian's product with the activation."""

    def raw_maps(self, seen: Passed, classes: Tensor) -> list[Tensor]:
        (activation,), (layout,), (kernel,) = seen.activations, self.layouts, self._kernels
        found = self._pass_back(seen.saved, classes.t())
        evidence = [layout.channels_first(each) for each in found]
        evidence = [each.reshape(*classes.t().shape, *each.shape[1:]) for each in evidence]
        return [kernel(layout.channels_first(activation), *evidence).transpose(0, 1)]


def _check(request: Request) -> None:
    name, target = request.method.name, request.subject.target
    if len(request.layers) > 1:
        raise InputError(f"{name} takes one layer; got {', '.join(request.layers)}")
    if target.contrast is not None:
        raise InputError(
            f"{name} differentiates each class's own score twice, and the target {target.name!r} "
            "has none: choose another target"
        )


def _compose(request: Request, traced: Trace) -> Composed:
    layers = cut_at_layers(request, traced)
    (value,) = (node.meta["val"] for node in layers.roots)
    tail = layers.parts.tail
    explained = len(outputs_of(tail)) - 1
    gradient = trace_second_order(tail, value, layers.parts.crossing, explained=explained)
    return layers.found, ShapleyBody(request, layers.found, layers.parts, 1, gradient)


FAMILY = Family(_compose, _check)
