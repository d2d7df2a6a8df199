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
from camcore.export.find.probes import Until, random_inputs, random_like
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
    find = _views_of_frames if layout.frames else _views
    found = find(traced, activation, layout)
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
    places = _PROBED[len(traced.size)]
    image, *others = random_inputs(traced.graph, generator, len(places))
    image.requires_grad_()
    with torch.enable_grad():
        values = layout.channels_first(Until(traced.graph, activation).value(image, *others))
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


def _views_of_frames(
    traced: Trace, activation: fx.Node, layout: Layout
) -> tuple[Tensor, tuple[int, ...]] | None:
    """As `_views`, of a layer with a row for each frame: what its points look at in there."""
    generator = torch.Generator().manual_seed(20184)
    image, *others = random_inputs(traced.graph, generator, 2)
    count = image.shape[2]
    image.requires_grad_()
    views = []
    with torch.enable_grad():
        values = layout.channels_first(Until(traced.graph, activation).value(image, *others))
        if not values.is_floating_point() or values.shape[2:].numel() == 1:
            return None
        signs = random_like(values[0].flatten(1)[:, 0], generator)
        for place in _PROBED[len(traced.size) - 1]:
            row = values[count - 1]  # the last frame of the first video
            cell: Any = (slice(None), *_cell(place, values.shape[2:]))
            score = (row[cell] * signs).sum()
            if not score.requires_grad:
                return None
            (gradient,) = torch.autograd.grad(
                score, image, retain_graph=True, materialize_grads=True
            )
            views.append(gradient[0, :, -1].square().sum(dim=0))
    totals = torch.stack([view.sum() for view in views])
    if not (totals > 0).all() or not totals.isfinite().all():
        return None
    return torch.stack(views) / totals.reshape(-1, 1, 1), tuple(values.shape[2:])


def _cell(place: Sequence[float], grid: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(share * count) for share, count in zip(place, grid, strict=True))
