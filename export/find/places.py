"""Places: whether the points of a layer lie where a map of them is drawn.

Where rows and columns were moved, by operators that are followed or not, is told by a probe: which
part of the image the points of the layer look at. What was transposed or mirrored is turned back.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from camcore.errors import ExportError
from camcore.export.find.frames import image_of
from camcore.export.find.grids import Layout
from camcore.export.find.probes import Until, random_inputs, random_like
from camcore.export.find.turns import Turn
from camcore.export.trace.graphs import hint
from camcore.export.trace.trace import Trace

# Points that change places by any mirror image, turn or roll by half, as shares of the sides.
_PROBED: dict[int, list[tuple[float, ...]]] = {
    1: [(1 / 8,), (3 / 8,), (7 / 8,)],
    2: [(1 / 8, 5 / 8), (5 / 8, 7 / 8), (7 / 8, 3 / 8), (3 / 8, 1 / 8)],
    3: [(1 / 8, 5 / 8, 3 / 8), (5 / 8, 7 / 8, 1 / 8), (7 / 8, 3 / 8, 5 / 8), (3 / 8, 1 / 8, 7 / 8)],
}
# Where those tell of a move, more are asked.
_EVERYWHERE = {
    rank: list(product((1 / 8, 3 / 8, 5 / 8, 7 / 8), repeat=rank))[:: 5 if rank == 3 else 1]
    for rank in _PROBED
}

# A view that is wider than this tells nothing: one of the whole image alike has 0.29.
_WIDEST = 0.17
# A point is elsewhere if the middle of its view is farther away than this, half a cell (a strided
# convolution without padding looks at a corner of it) and the view's own width.
_AWAY = 0.1
# So many of the few, and of the many, are elsewhere where points were moved, and so many at most
# where they were not.
_SUSPECT, _MOVED, _UNMOVED = 0.5, 0.25, 0.1

_DRAWS = 3  # of random images, each stronger, for points that look at nothing in one of them


def placed(traced: Trace, layer: str, activation: fx.Node, layout: Layout) -> Layout:
    """The layout that draws a layer's points where they look, turned as the image is in it.

    Told from the gradients of some points with respect to a random image. Points that look at the
    whole image alike tell nothing.

    Raises:
        ExportError: they look at other places of the image, in no order that a turn explains.
    """
    find = _views_of_frames if layout.frames else _views
    views = find(traced, activation, layout, _PROBED)
    as_it_is, *turns = Turn.all_of(layout.spatial_ndim)
    if views is None or views.elsewhere(as_it_is) < _SUSPECT:
        return layout
    views = find(traced, activation, layout, _EVERYWHERE)
    if views is None or views.elsewhere(as_it_is) < _MOVED:
        return layout
    best = min(turns, key=views.elsewhere)
    if views.elsewhere(best) > _UNMOVED:
        raise _moved(layer)
    return replace(layout, turn=best)


def check_level(graph: fx.GraphModule, layer: str, level: fx.Node) -> None:
    """Raises an `ExportError` where the points of a map (1, C, h, w) of a graph of one image do not
    lie as the image does.
    """
    layout, as_it_is = Layout("channels_first", 2), Turn.all_of(2)[0]
    for probed, share in ((_PROBED, _SUSPECT), (_EVERYWHERE, _MOVED)):
        views = _views_in_row(graph, level, layout, probed[2], 1, 0, lambda gradient: gradient[0])
        if views is None or views.elsewhere(as_it_is) < share:
            return
    raise _moved(layer)


def _moved(layer: str) -> ExportError:
    return ExportError(
        f"the points of layer {layer!r} do not lie in the order of the image's rows and columns: "
        "they look at other places than those where a map of them would be drawn. Choose a layer "
        "before they are moved, or behind where they are put back"
    )


@dataclass(frozen=True)
class _Views:
    """What points of a grid look at: the `middles` (n, D) and the `widths` of their views, standard
    deviations, in fractions of the image's sides.
    """

    cells: list[tuple[int, ...]]
    grid: tuple[int, ...]
    middles: Tensor
    widths: Tensor

    def elsewhere(self, turn: Turn) -> float:
        """The share of the points whose view is not where they are drawn, if the grid is turned so,
        of those that tell.
        """
        places = []
        for cell in self.cells:
            place, counts = turn.cell(cell, self.grid)
            places.append([(n + 0.5) / count for n, count in zip(place, counts, strict=True)])
        half_a_cell = 0.5 / torch.tensor(counts)
        away = (self.middles - torch.tensor(places)).abs() > _AWAY + half_a_cell + self.widths
        telling = self.widths <= _WIDEST
        told = telling.any(dim=1)
        return float((away & telling).any(dim=1)[told].float().mean()) if told.any() else 0.0


def _views(
    traced: Trace,
    activation: fx.Node,
    layout: Layout,
    probed: Mapping[int, list[tuple[float, ...]]],
) -> _Views | None:
    """What probed points look at, each of an image of its own; None if that cannot be told."""
    generator = torch.Generator().manual_seed(20183)
    places = probed[len(traced.size)]
    looks: Any = 0
    for draw in range(_DRAWS):
        image, *others = random_inputs(traced.graph, generator, len(places))
        image.mul_(4**draw).requires_grad_()
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
        looks = looks + gradient.square().sum(dim=1)
        if looks.flatten(1).any(dim=1).all():
            break
    return _as_views(looks, cells, grid)


def _views_of_frames(
    traced: Trace,
    activation: fx.Node,
    layout: Layout,
    probed: Mapping[int, list[tuple[float, ...]]],
) -> _Views | None:
    """As `_views`, of a layer with a row for each frame: what the points of the last frame of the
    first of two videos look at in there.
    """
    image = image_of(traced.graph.graph).meta["val"]
    row = hint(image.shape[2]) - 1
    places = probed[len(traced.size) - 1]
    return _views_in_row(
        traced.graph, activation, layout, places, 2, row, lambda gradient: gradient[0, :, -1]
    )


def _views_in_row(
    graph: fx.GraphModule,
    activation: fx.Node,
    layout: Layout,
    places: list[tuple[float, ...]],
    batch: int,
    row: int,
    part: Callable[[Tensor], Tensor],
) -> _Views | None:
    """What points of one row of a layer look at, in that part (C, *S) of a batch of images."""
    generator = torch.Generator().manual_seed(20184)
    image, *others = random_inputs(graph, generator, batch)
    image.requires_grad_()
    looks, cells = [], []
    with torch.enable_grad():
        values = layout.channels_first(Until(graph, activation).value(image, *others))
        grid = tuple(values.shape[2:])
        if not values.is_floating_point() or math.prod(grid) == 1:
            return None
        signs = random_like(values[0].flatten(1)[:, 0], generator)
        for place in places:
            cells.append(_cell(place, grid))
            cell: Any = (slice(None), *cells[-1])
            score = (values[row][cell] * signs).sum()
            if not score.requires_grad:
                return None
            (gradient,) = torch.autograd.grad(
                score, image, retain_graph=True, materialize_grads=True
            )
            looks.append(part(gradient).square().sum(dim=0))
    return _as_views(torch.stack(looks), cells, grid)


def _as_views(looks: Tensor, cells: list[tuple[int, ...]], grid: tuple[int, ...]) -> _Views | None:
    """From how much each point looks at each pixel, (n, *S); None where most look at nothing."""
    looks = looks.double().cpu()
    totals = looks.flatten(1).sum(dim=1)
    alive = (totals > 0) & totals.isfinite()
    if 2 * int(alive.sum()) < len(cells):
        return None
    shares = looks[alive] / totals[alive].reshape(-1, *[1] * (looks.ndim - 1))
    middles, widths = [], []
    for axis in range(1, looks.ndim):
        others = [n for n in range(1, looks.ndim) if n != axis]
        along = shares.sum(dim=others) if others else shares
        pixels = (torch.arange(along.shape[1]) + 0.5) / along.shape[1]
        middle = (along * pixels).sum(dim=1)
        spread = (along * (pixels - middle[:, None]).square()).sum(dim=1).sqrt()
        middles.append(middle)
        widths.append(spread)
    seen = [cell for cell, looking in zip(cells, alive.tolist(), strict=True) if looking]
    return _Views(seen, grid, torch.stack(middles, 1), torch.stack(widths, 1))


def _cell(place: Sequence[float], grid: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(share * count) for share, count in zip(place, grid, strict=True))
