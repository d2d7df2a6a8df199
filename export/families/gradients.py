"""Gradients at the layers: Grad-CAM and its relatives."""

from camcore.export.families.family import Composed, Family, check_sizes, cut_at_layers
from camcore.export.gradient.body import GradientBody
from camcore.export.gradient.gradient import gradient_of
from camcore.export.request import Request
from camcore.export.trace.trace import Trace


def compose_with(body: type[GradientBody], request: Request, traced: Trace) -> Composed:
    """The layers, and a body that is given the gradient of what is behind them."""
    layers = cut_at_layers(request, traced)
    contrast = request.subject.target.contrast
    gradient = gradient_of(layers.parts, layers.roots, layers.inner, contrast=contrast)
    return layers.found, body(request, layers.found, layers.parts, len(layers.roots), gradient)


def _compose(request: Request, traced: Trace) -> Composed:
    return compose_with(GradientBody, request, traced)


FAMILY = Family(_compose, check_sizes, of_detections=True)
