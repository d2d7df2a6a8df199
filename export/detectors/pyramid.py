"""Pyramid: a detector's image explained as a whole, by all levels of its pyramid.

Methods that look at activations alone know no detection. Their activation is made of all levels:
the absolute value of each, at the coarsest level's size, one behind the other. Or each level has a
map, of which the largest counts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from camcore.errors import ExportError, InputError
from camcore.export.detectors.geometry import Frame, Framing, over_level
from camcore.export.detectors.parts import rectified, scaled
from camcore.export.find.modules import returned_by_calls
from camcore.export.request import Request
from camcore.export.trace.graphs import outputs_of, return_values, returning, shape_of
from camcore.scaling import aggregate, resize


class Pyramid(NamedTuple):
    """The levels (1, C, h, w) of a graph, how many channels each has, and how many points in the
    example; `coarsest` is the place of the one that has the fewest.
    """

    levels: list[fx.Node]
    channels: list[int]
    points: list[int]

    @property
    def coarsest(self) -> int:
        return self.points.index(min(self.points))


class PyramidBody(nn.Module):
    """From an image (1, C, H, W) to all that the detector finds, and `saliency_map` (1, 1, H, W).

    Args:
        detector: gives `(*found, *levels)`.
        count: how many outputs are found.
    """

    def __init__(
        self,
        detector: fx.GraphModule,
        count: int,
        request: Request,
        pyramid: Pyramid,
        framing: Framing,
    ) -> None:
        super().__init__()
        self.detector = detector
        self._count, self._coarsest, self._framing = count, pyramid.coarsest, framing
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)
        sizes = list(zip(pyramid.points, pyramid.channels, strict=True))
        if request.combine != "max":
            sizes = [(min(pyramid.points), sum(pyramid.channels))]
        self._kernels = [request.kernel("space" if p <= c else "channels") for p, c in sizes]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        returned = self.detector(image)
        found, levels = returned[: self._count], returned[self._count :]
        (request,) = self._request
        activations = activations_of(levels, self._coarsest, request)
        pairs = zip(self._kernels, activations, strict=True)
        raw = [kernel(each)[:, None] for kernel, each in pairs]
        return *found, placed(raw, self._framing(image), request)


def activations_of(levels: Sequence[Tensor], coarsest: int, request: Request) -> list[Tensor]:
    """What has a map each: all levels (1, C, h, w) as one, or the absolute values of every one."""
    if request.combine == "max":
        return [level.abs() for level in levels]
    return [join(levels, coarsest)]


def placed(raw: Sequence[Tensor], frame: Frame, request: Request) -> Tensor:
    """Raw maps (..., h, w) of one activation, or of each level, as one map in the image."""
    maps = [over_level(rectified(request, each), frame) for each in raw]
    return scaled(request, aggregate(maps, how="max"))


def join(levels: Sequence[Tensor], coarsest: int) -> Tensor:
    """Levels (1, C, h, w) as one activation (1, sum of C, h, w), of the size of the coarsest:
    absolute values, interpolated.

    Source: pytorch-grad-cam's `fasterrcnn_reshape_transform`
    """
    grid = tuple(levels[coarsest].shape[2:])
    return torch.cat([resize(level.abs(), grid) for level in levels], dim=1)


def find_pyramid(graph: fx.GraphModule, layers: Sequence[str], request: Request) -> Pyramid:
    """All that the layers return, as levels of one pyramid.

    Raises:
        InputError: no layers were named, of a detector that has no `backbone` of torchvision's.
        ExportError: what they return is no level of a pyramid, or the coarsest is a single point.
    """
    if not layers:
        raise InputError(
            "an image is explained as a whole by the levels of a pyramid: name the layers, one "
            "for each level"
        )
    levels = [node for layer in layers for node in returned_by_calls(graph.graph, layer)]
    sizes = [node.meta["val"].shape for node in levels]
    for node, size in zip(levels, sizes, strict=True):
        if len(size) != 4 or not isinstance(size[0], int):
            raise ExportError(
                f"{', '.join(layers)!r} gives a value of shape ({', '.join(shape_of(node))}), "
                "expected levels (1, C, h, w) of a pyramid"
            )
    with returning(graph, levels), torch.no_grad():
        graph.recompile()
        points = [level[0, 0].numel() for level in graph.forward(*request.inputs)]
    if (max if request.combine == "max" else min)(points) == 1:
        raise ExportError(
            f"the coarsest level of {', '.join(layers)!r} is a single point, so a map of all "
            "levels at its size shows nothing: name layers that are finer, one for each level, or "
            "let the largest of their maps count, by combine='max'"
        )
    return Pyramid(levels, [int(size[1]) for size in sizes], points)


def compose_pyramid(
    graph: fx.GraphModule, layers: Sequence[str], request: Request, framing: Framing
) -> PyramidBody:
    """The body that explains the image by all that the layers return.

    Raises:
        InputError, ExportError: as `find_pyramid`.
    """
    pyramid = find_pyramid(graph, layers, request)
    returned = outputs_of(graph)
    return_values(graph, [*returned, *pyramid.levels])
    detector = fx.GraphModule(graph, graph.graph)
    return PyramidBody(detector, len(returned), request, pyramid, framing)
