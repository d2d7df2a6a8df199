"""Biases: FullGrad, which tells the score apart into what the image and every bias contribute."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, fx

from camcore.errors import ExportError, InputError
from camcore.export.cut import Cut, cut_with_inner
from camcore.export.families.family import Composed, Family
from camcore.export.find.affine import operator_of
from camcore.export.find.biases import find_biases
from camcore.export.find.frames import check_frames, folds_frames, unfolded
from camcore.export.find.grids import Layout, find_layout
from camcore.export.find.places import placed
from camcore.export.gradient.body import GradientBody, Passed
from camcore.export.gradient.gradient import Gradient, gradient_of
from camcore.export.request import Found, Kernel, Request
from camcore.export.trace.graphs import module_of
from camcore.export.trace.trace import Trace
from camcore.fullgrad import fullgrad_input

aten = torch.ops.aten


class FullGradBody(GradientBody):
    """Raw maps from the gradients at the image and at every bias: K passes back through it all."""

    def __init__(
        self, request: Request, found: Found, parts: Cut, roots: int, gradient: Gradient
    ) -> None:
        super().__init__(request, found, parts, roots, gradient)
        for n, bias in enumerate(found.biases):
            self.register_buffer(f"bias_{n}", bias)

    def kernels(self) -> list[Kernel]:
        options = dict(self.request.options, spatial_ndim=self.request.spatial_ndim)
        first = partial(fullgrad_input, **options)
        of_biases = [partial(self.request.method.kernel, **options) for _ in self._found.biases]
        return [first, *of_biases]

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Passed]:
        observed, passed = super().observe(inputs)
        image, *others = passed.activations
        biases = [self.get_buffer(f"bias_{n}") for n in range(len(others))]
        return observed, passed._replace(activations=[image, *biases])

    def _channels_first(self, values: Sequence[Tensor]) -> list[Tensor]:
        return list(values)

    def _by_class(self, found: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
        # What each frame says is stretched together with what the others say.
        frames = [layout.frames for layout in self.layouts]
        found = [
            each.transpose(1, 2) if of_frames else each
            for each, of_frames in zip(found, frames, strict=True)
        ]
        return super()._by_class(found, rows)


def _check(request: Request) -> None:
    if request.layers or not request.full_size or request.aug_smooth:
        raise InputError(
            f"{request.method.name} explains all layers at image size: leave out layer, full_size "
            "and aug_smooth"
        )


def _compose(request: Request, traced: Trace) -> Composed:
    """FullGrad's layers: the image, and behind it whatever a bias is added to."""
    graph = traced.graph
    image = graph.graph.find_nodes(op="placeholder")[0]
    biases = find_biases(traced)
    if not biases:
        raise ExportError(
            f"{request.method.name} tells a score apart into what every bias contributes, and on "
            "the way from the image to the scores no convolution, batch normalisation or sum adds "
            "one to its channels. Choose another method"
        )
    nodes = [bias.node for bias in biases]
    frames = [folds_frames(node) for node in nodes]
    _check_places(request, traced, nodes)
    if any(frames):
        first = nodes[frames.index(True)]
        check_frames(traced, module_of(first), first)
        nodes = [
            unfolded(node) if of_frames else node
            for node, of_frames in zip(nodes, frames, strict=True)
        ]
    of_image = Layout("channels_first", request.spatial_ndim)
    found = Found(
        layers=("", *map(module_of, nodes)),
        layouts=(of_image, *(replace(of_image, frames=each) for each in frames)),
        place="every bias",
        biases=tuple(bias.added for bias in biases),
    )
    parts = cut_with_inner(graph, [image], nodes)
    gradient = gradient_of(parts, [image], nodes, contrast=request.subject.target.contrast)
    return found, FullGradBody(request, found, parts, 1, gradient)


# They may move the points of a map.
_MOVES = {
    *(aten.flip, aten.gather, aten.index, aten.index_select, aten.movedim, aten.permute),
    *(aten.roll, aten.slice, aten.transpose),
}


def _check_places(request: Request, traced: Trace, nodes: Sequence[fx.Node]) -> None:
    """Raises an `ExportError` where a bias is added to what does not lie as the image does."""
    if not any(operator_of(node) in _MOVES for node in traced.graph.graph.nodes):
        return
    for node in nodes:
        layout = find_layout(node, traced.size)
        if isinstance(layout, str):  # a single point
            continue
        if layout.kind == "channels_first":
            layout = placed(traced, module_of(node), node, layout)
        turned = "" if layout.turn is None else layout.turn.describe()
        if layout.kind != "channels_first" or turned:
            raise ExportError(
                f"{request.method.name} draws a map of every bias as it lies, and that of "
                f"{module_of(node) or 'the model'} is {turned or layout.describe()}, not (B, C, H, "
                "W) as the image. Choose another method"
            )


FAMILY = Family(_compose, _check, takes_layers=False)
