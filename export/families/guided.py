"""Guided gradients at the image: guided backpropagation, and Grad-CAM of a layer beside it."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, fx

from camcore.errors import InputError
from camcore.export.cut import cut_with_inner
from camcore.export.families.family import Composed, Family, check_sizes, place_of
from camcore.export.find.grids import Layout
from camcore.export.find.layers import find_layers, layer_notes
from camcore.export.finish import finish
from camcore.export.gradient.body import GradientBody, Passed
from camcore.export.gradient.gradient import gradient_of
from camcore.export.request import Found, Kernel, Request
from camcore.export.trace.trace import Trace
from camcore.guided import times_coarse
from camcore.weighting import gradcam


class GuidedBody(GradientBody):
    """Raw maps from guided gradients at the image, and maybe Grad-CAM of a layer: K passes back."""

    def kernels(self) -> list[Kernel]:
        return [partial(self.request.method.kernel, spatial_ndim=self.request.spatial_ndim)]

    def raw_maps(self, seen: Passed, classes: Tensor) -> list[Tensor]:
        found = self._pass_back(seen.saved, classes.t())
        guided, *gradients = self._by_class(found, classes.t().shape)
        (kernel,) = self._kernels
        _, *activations = self._channels_first(seen.activations)
        if any(layout.frames for layout in self.layouts):
            # Weighed frame by frame, and scaled as one.
            raw = gradcam(*activations, *gradients)
            return [times_coarse(guided.sum(dim=2), raw, spatial_ndim=3).transpose(0, 1)]
        return [kernel(*activations, *gradients, guided).transpose(0, 1)]

    def finish(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        return finish(self.request, maps, None)  # they have the image's size


def _check(request: Request, most: int, takes: str) -> None:
    name = request.method.name
    check_sizes(request)
    if len(request.layers) > most:
        raise InputError(f"{name} takes {takes}; got {', '.join(request.layers)}")
    if not request.full_size:
        raise InputError(f"{name} makes its maps at image size: leave full_size on")


def _compose(
    request: Request,
    traced: Trace,
    layers: tuple[str, ...] = (),
    nodes: Sequence[fx.Node] = (),
    layouts: tuple[Layout, ...] = (),
) -> Composed:
    """The image, whose gradients are guided, and layers behind it."""
    image = traced.graph.graph.find_nodes(op="placeholder")[0]
    found = Found(
        layers=("", *layers),
        layouts=(Layout("channels_first", request.spatial_ndim), *layouts),
        place=place_of(request, layers),
        notes=layer_notes(traced.graph.graph, layers, layouts),
    )
    parts = cut_with_inner(traced.graph, [image], nodes)
    contrast = request.subject.target.contrast
    gradient = gradient_of(parts, [image], nodes, contrast=contrast, guided=True)
    return found, GuidedBody(request, found, parts, 1, gradient)


def _compose_with_a_layer(request: Request, traced: Trace) -> Composed:
    return _compose(request, traced, *find_layers(traced, request.layers))


OF_THE_IMAGE = Family(
    _compose,
    partial(_check, most=0, takes="no layer, for it explains the image"),
    takes_layers=False,
)
WITH_A_LAYER = Family(_compose_with_a_layer, partial(_check, most=1, takes="one layer"))
