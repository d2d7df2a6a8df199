"""Pyramid: a detector's image explained as a whole, by all levels of its pyramid at once.

Methods that look at activations alone know no detection. Their activation is made of all levels:
the absolute value of each, at the coarsest level's size, one behind the other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from camcore.errors import ExportError, InputError
from camcore.export.detectors.geometry import Frame, OverLevel, over_level
from camcore.export.detectors.parts import rectified, scaled
from camcore.export.find.modules import returned_by_calls
from camcore.export.request import Request
from camcore.export.trace.graphs import outputs_of, return_values, shape_of
from camcore.scaling import resize


class Pyramid(NamedTuple):
    """The levels (1, C, h, w) of a graph, and how many channels each has; the grid of the coarsest,
    and where that lies in the image (`over_level`).
    """

    levels: list[fx.Node]
    channels: list[int]
    grid: tuple[int, int]
    placement: tuple[Tensor, Tensor]


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
    ) -> None:
        super().__init__()
        self.detector = detector
        self._count, self._grid = count, pyramid.grid
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)
        points = pyramid.grid[0] * pyramid.grid[1]
        self._kernel = request.kernel("space" if points <= sum(pyramid.channels) else "channels")
        self.over_level = OverLevel(pyramid.placement)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        returned = self.detector(image)
        found, levels = returned[: self._count], returned[self._count :]
        (request,) = self._request
        raw = self._kernel(join(levels, self._grid))[:, None]
        return *found, scaled(request, self.over_level(rectified(request, raw)))


def join(levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Levels (1, C, h, w) as one activation (1, sum of C, *grid): absolute values, interpolated.

    Source: pytorch-grad-cam's `fasterrcnn_reshape_transform`
    """
    return torch.cat([resize(level.abs(), grid) for level in levels], dim=1)


def find_pyramid(graph: fx.GraphModule, layers: Sequence[str], frame: Frame) -> Pyramid:
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
        if len(size) != 4 or not all(isinstance(length, int) for length in size):
            raise ExportError(
                f"{', '.join(layers)!r} gives a value of shape ({', '.join(shape_of(node))}), "
                "expected levels (1, C, h, w) of a pyramid"
            )
    grids = [(int(height), int(width)) for _, _, height, width in sizes]
    grid = min(grids, key=lambda each: each[0] * each[1])
    if grid == (1, 1):
        raise ExportError(
            f"the coarsest level of {', '.join(layers)!r} is a single point, so a map of all "
            "levels at its size shows nothing: name layers that are finer, one for each level"
        )
    like = next(graph.buffers())
    rows, columns = (each.to(like.device) for each in over_level(frame, grid))
    return Pyramid(levels, [int(size[1]) for size in sizes], grid, (rows, columns))


def compose_pyramid(
    graph: fx.GraphModule, layers: Sequence[str], request: Request, frame: Frame
) -> PyramidBody:
    """The body that explains the image by all that the layers return.

    Raises:
        InputError, ExportError: as `find_pyramid`.
    """
    pyramid = find_pyramid(graph, layers, frame)
    returned = outputs_of(graph)
    return_values(graph, [*returned, *pyramid.levels])
    detector = fx.GraphModule(graph, graph.graph)
    return PyramidBody(detector, len(returned), request, pyramid)
