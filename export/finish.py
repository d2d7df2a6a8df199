"""Finish: raw maps of one or several layers become the saliency map, the same way for all."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from camcore.export.request import Request
from camcore.scaling import aggregate, normalize, postprocess, resize


def finish(request: Request, maps: Sequence[Tensor], size: tuple[int, ...] | None) -> Tensor:
    """Raw maps (B, K, *S), one tensor a layer, as saliency maps (B, K, *size).

    `size` None leaves one layer's maps at their own.
    """
    rank = request.spatial_ndim
    options: dict[str, Any] = {"relu": request.relu, "normalize": request.normalize}
    if len(maps) == 1:
        finished: Tensor = postprocess(maps[0], size, spatial_ndim=rank, **options)
        return finished
    assert size is not None
    if request.combine == "sum":
        resized = [resize(each, size) for each in _sums_of_sizes(maps, rank)]
        total: Tensor = aggregate(resized, how="sum")
        return normalize(total, spatial_ndim=rank) if request.normalize else total
    # Scaled once: a second time would stretch faint maps, whose range `eps` has made smaller.
    options["normalize"] = False
    scaled = [postprocess(each, None, spatial_ndim=rank, **options) for each in maps]
    if request.normalize:
        scaled = [normalize(each, spatial_ndim=rank) for each in scaled]
    scaled = [resize(each, size) for each in scaled]
    if request.combine == "product" and request.normalize:
        scaled = [normalize(each, spatial_ndim=rank) for each in scaled]
    finished = aggregate(scaled, how=request.combine)
    if request.normalize:
        finished = normalize(finished, spatial_ndim=rank)
    return finished


def map_size(request: Request, image: Tensor) -> tuple[int, ...] | None:
    """The size of the maps of images (B, C, *S), None for the layer's own."""
    return tuple(image.shape[2:]) if request.full_size else None


def unscaled_mean(maps: Sequence[Tensor], rank: int) -> Tensor:
    """The mean of maps (B, K, *S), on the finest of their grids."""
    finest = max((each.shape[-rank:] for each in maps), key=lambda grid: math.prod(grid))
    alike = [each if each.shape[-rank:] == finest else resize(each, finest) for each in maps]
    return aggregate(alike, how="mean")  # type: ignore[no-any-return]


def _sums_of_sizes(maps: Sequence[Tensor], rank: int) -> list[Tensor]:
    """The sum of the maps of each size: resized once, it is the sum of the maps resized."""
    alike: dict[str, list[Tensor]] = {}
    for each in maps:
        # As they are written: to compare symbolic sizes would fix them.
        alike.setdefault(str(each.shape[-rank:]), []).append(each)
    return [aggregate(group, how="sum") for group in alike.values()]
