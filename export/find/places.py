"""Places: whether the points of a layer lie where a map of them is drawn.

Where rows and columns were moved, by operators that are followed or not, is told by a probe: which
part of the image the points of the layer look at.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from camcore.errors import ExportError
from camcore.export.find.grids import Layout
from camcore.export.trace.graphs import hint
from camcore.export.trace.trace import Trace

# Points that change places by any mirror image, turn or roll by half, as shares of the sides.
_PROBED: dict[int, list[tuple[float, ...]]] = {
    1: [(1 / 8,), (3 / 8,), (7 / 8,)],
    2: [(1 / 8, 5 / 8), (5 / 8, 7 / 8), (7 / 8, 3 / 8), (3 / 8, 1 / 8)],
    3: [(1 / 8, 5 / 8, 3 / 8), (5 / 8, 7 / 8, 1 / 8), (7 / 8, 3 / 8, 5 / 8), (3 / 8, 1 / 8, 7 / 8)],
}

# A point's view is narrow if a window of half the image's sides has so much of it, ...
_NARROW = 0.6
# ... and it is elsewhere if the window where it should be has less than this share of that.
_ELSEWHERE = 0.6


def check_places(traced: Trace, layer: str, activation: fx.Node, layout: Layout) -> None:
    """Raises an `ExportError` where the points of a layer look at other places of the image.

    Told from the gradients of some points with respect to a random image. Points that look at the
    whole image alike tell nothing.
    """
    found = _views(traced, activation, layout)
    if found is None:
        return
    views, grid = found
    size = views.shape[1:]
    window = [max(1, side // 2) for side in size]
    pool: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(size)]
    shares = pool(views[:, None], window, stride=1)[:, 0] * math.prod(window)
    best = shares.flatten(1).amax(dim=1)
    starts = [
        tuple(map(_starts, _cell(place, grid), grid, size, window)) for place in _PROBED[len(size)]
    ]
    there = torch.stack([row[start].amax() for row, start in zip(shares, starts, strict=True)])
    if best.mean() > _NARROW and there.mean() < _ELSEWHERE * best.mean():
        raise ExportError(
            f"the points of layer {layer!r} do not lie in the order of the image's rows and "
            "columns: they look at other places than those where a map of them would be drawn. "
            "Choose a layer before they are moved, or behind where they are put back"
        )


def _starts(cell: int, cells: int, side: int, length: int) -> slice:
    """Where windows start that are about the middle of a cell, within half a cell.

    A strided convolution without padding looks at a corner of its cell.
    """
    middle, half = (cell + 0.5) * side / cells, side / cells / 2
    first, last = (
        min(max(round(middle + off - length / 2), 0), side - length) for off in (-half, half)
    )
    return slice(first, last + 1)


def _views(
    traced: Trace, activation: fx.Node, layout: Layout
) -> tuple[Tensor, tuple[int, ...]] | None:
    """What each probed point looks at, (n, *S), adding up to 1, and how many points there are along
    each side; None if that cannot be told.
    """
    generator = torch.Generator().manual_seed(20183)
    examples = [node.meta["val"] for node in traced.graph.graph.find_nodes(op="placeholder")]
    places = _PROBED[len(traced.size)]
    image, *others = (random_like(value, generator, len(places)) for value in examples)
    image.requires_grad_()
    with torch.enable_grad():
        values = layout.channels_first(_Until(traced.graph, activation).value(image, *others))
        if not values.is_floating_point() or values.shape[2:].numel() == 1:
            return None
        signs = random_like(values[0].flatten(1)[:, 0], generator)
        probed = [
            row[(slice(None), *_cell(place, values.shape[2:]))]
            for row, place in zip(values, places, strict=True)
        ]
        score = (torch.stack(probed) * signs).sum()
        if not score.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(score, image, materialize_grads=True)
    views = gradient.square().sum(dim=1)
    total = views.flatten(1).sum(dim=1)
    if not (total > 0).all() or not total.isfinite().all():
        return None
    return views / total.reshape(-1, *[1] * len(traced.size)), tuple(values.shape[2:])


def _cell(place: Sequence[float], grid: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(share * count) for share, count in zip(place, grid, strict=True))


class _Until(fx.Interpreter):
    """Runs a graph as far as one of its values."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node) -> None:
        super().__init__(graph)
        self._node = node

    def value(self, *inputs: Tensor) -> Tensor:
        """The node's value for the graph's inputs."""
        self.args_iter = iter(inputs)
        needed = _what_leads_to(self._node)
        for node in self.module.graph.nodes:  # type: ignore[union-attr]
            if node.op == "placeholder" or node in needed:
                self.env[node] = self.run_node(node)
            if node is self._node:
                break
        found: Tensor = self.env[self._node]
        return found


def _what_leads_to(node: fx.Node) -> set[fx.Node]:
    found, pending = {node}, [node]
    while pending:
        more = [value for value in pending.pop().all_input_nodes if value not in found]
        found.update(more)
        pending += more
    return found


def random_like(like: Tensor, generator: torch.Generator, batch: int | None = None) -> Tensor:
    """Random values of a traced one's shape and type, in rows of a batch."""
    shape = [hint(size) for size in like.shape]
    if batch is not None:
        shape[0] = batch
    if not like.is_floating_point():
        return torch.randint(2, shape, generator=generator).to(like.device, like.dtype)
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)
