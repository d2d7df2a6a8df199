"""Places: whether the points of a layer lie where a map of them is drawn.

Where rows and columns were moved, by operators that are followed or not, is told by a probe: which
part of the image the points of the layer look at. What was transposed or mirrored is turned back.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from camcore.errors import ExportError
from camcore.export.find.grids import Layout
from camcore.export.find.probes import Until, random_inputs, random_like
from camcore.export.find.turns import Turn
from camcore.export.trace.trace import Trace

# Points that change places by any mirror image, turn or roll by half, as shares of the sides.
_PROBED: dict[int, list[tuple[float, ...]]] = {
    1: [(1 / 8,), (3 / 8,), (7 / 8,)],
    2: [(1 / 8, 5 / 8), (5 / 8, 7 / 8), (7 / 8, 3 / 8), (3 / 8, 1 / 8)],
    3: [(1 / 8, 5 / 8, 3 / 8), (5 / 8, 7 / 8, 1 / 8), (7 / 8, 3 / 8, 5 / 8), (3 / 8, 1 / 8, 7 / 8)],
}
# What was found to be turned is looked at in more places: four may be a shuffle's by chance.
_EVERYWHERE = {
    rank: list(product((1 / 8, 3 / 8, 5 / 8, 7 / 8), repeat=rank))[:: 5 if rank == 3 else 1]
    for rank in _PROBED
}

# A point's view is narrow if a window of half the image's sides has so much of it, ...
_NARROW = 0.6
# ... it is elsewhere if the window where it should be has less than this share of that, ...
_ELSEWHERE = 0.6
# ... and there if it has so much.
_THERE = 0.85


def placed(traced: Trace, layer: str, activation: fx.Node, layout: Layout) -> Layout:
    """The layout that draws a layer's points where they look, turned as the image is in it.

    Told from the gradients of some points with respect to a random image. Points that look at the
    whole image alike tell nothing.

    Raises:
        ExportError: they look at other places of the image, in no order that a turn explains.
    """
    find = _views_of_frames if layout.frames else _views
    views = find(traced, activation, layout, _PROBED)
    if views is None or views.widest <= _NARROW:
        return layout
    as_it_is, *turns = Turn.all_of(len(views.size))
    if views.seen_there(as_it_is) >= _ELSEWHERE * views.widest:
        return layout
    best = max(turns, key=views.seen_there)
    turned = replace(layout, turn=best)
    again = find(traced, activation, turned, _EVERYWHERE)
    if again is None or again.seen_there(as_it_is) < _THERE * again.widest:
        raise ExportError(
            f"the points of layer {layer!r} do not lie in the order of the image's rows and "
            "columns: they look at other places than those where a map of them would be drawn. "
            "Choose a layer before they are moved, or behind where they are put back"
        )
    return turned


@dataclass(frozen=True)
class _Views:
    """What points of a grid look at: `shares` (n, ...) that windows of the image have of it.

    Windows are half as long as the image's sides `size`; each has its first pixel in `shares`.
    """

    cells: list[tuple[int, ...]]
    grid: tuple[int, ...]
    size: tuple[int, ...]
    window: list[int]
    shares: Tensor

    @property
    def widest(self) -> float:
        """The most of it that one window has, in the mean of all points."""
        return float(self.shares.flatten(1).amax(dim=1).mean())

    def seen_there(self, turn: Turn) -> float:
        """What the window has where a point is drawn, if the grid is turned so."""
        found = []
        for row, cell in zip(self.shares, self.cells, strict=True):
            starts = map(_starts, *turn.cell(cell, self.grid), self.size, self.window)
            found.append(row[tuple(starts)].amax())
        return float(torch.stack(found).mean())


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
    traced: Trace,
    activation: fx.Node,
    layout: Layout,
    probed: Mapping[int, list[tuple[float, ...]]],
) -> _Views | None:
    """What probed points look at, each of an image of its own; None if that cannot be told."""
    generator = torch.Generator().manual_seed(20183)
    places = probed[len(traced.size)]
    image, *others = random_inputs(traced.graph, generator, len(places))
    image.requires_grad_()
    with torch.enable_grad():
        values = layout.channels_first(Until(traced.graph, activation).value(image, *others))
        grid = tuple(values.shape[2:])
        if not values.is_floating_point() or math.prod(grid) == 1:
            return None
        signs = random_like(values[0].flatten(1)[:, 0], generator)
        cells = [_cell(place, grid) for place in places]
        points = [row[(slice(None), *cell)] for row, cell in zip(values, cells, strict=True)]
        score = (torch.stack(points) * signs).sum()
        if not score.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(score, image, materialize_grads=True)
    return _as_views(gradient.square().sum(dim=1), cells, grid)


def _views_of_frames(
    traced: Trace,
    activation: fx.Node,
    layout: Layout,
    probed: Mapping[int, list[tuple[float, ...]]],
) -> _Views | None:
    """As `_views`, of a layer with a row for each frame: what its points look at in there."""
    generator = torch.Generator().manual_seed(20184)
    image, *others = random_inputs(traced.graph, generator, 2)
    count = image.shape[2]
    image.requires_grad_()
    views, cells = [], []
    with torch.enable_grad():
        values = layout.channels_first(Until(traced.graph, activation).value(image, *others))
        grid = tuple(values.shape[2:])
        if not values.is_floating_point() or math.prod(grid) == 1:
            return None
        signs = random_like(values[0].flatten(1)[:, 0], generator)
        for place in probed[len(traced.size) - 1]:
            cells.append(_cell(place, grid))
            row = values[count - 1]  # the last frame of the first video
            score = (row[(slice(None), *cells[-1])] * signs).sum()
            if not score.requires_grad:
                return None
            (gradient,) = torch.autograd.grad(
                score, image, retain_graph=True, materialize_grads=True
            )
            views.append(gradient[0, :, -1].square().sum(dim=0))
    return _as_views(torch.stack(views), cells, grid)


def _as_views(views: Tensor, cells: list[tuple[int, ...]], grid: tuple[int, ...]) -> _Views | None:
    """From how much each point looks at each pixel, (n, *S); None where one looks at none."""
    size = tuple(views.shape[1:])
    total = views.flatten(1).sum(dim=1)
    if not (total > 0).all() or not total.isfinite().all():
        return None
    views = views / total.reshape(-1, *[1] * len(size))
    window = [max(1, side // 2) for side in size]
    pool: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(size)]
    shares = pool(views[:, None], window, stride=1)[:, 0] * math.prod(window)
    return _Views(cells, grid, size, window, shares)


def _cell(place: Sequence[float], grid: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(share * count) for share, count in zip(place, grid, strict=True))
