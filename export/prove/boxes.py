"""The boxes that a file ought to give for the maps that it gave.

They are found in Python and in exact arithmetic, with nothing of the kernels that are exported. The
maps are proven by themselves: a pixel that rounding moves across a level moves the boxes with it,
and the file's own maps are what its boxes have to fit.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camcore.errors import ProofError
from camcore.export.request import Request
from camcore.scaling import NORMALIZE_EPS

_LEVELS = 256

# A level is as good as the best one if the variance between the classes is that much of the best:
# a runtime computes it in double precision.
_AS_GOOD = 1e-12


def prove_boxes(
    request: Request,
    maps: Tensor,
    found: tuple[Tensor, Tensor],
    likely: Tensor,
    tolerance: float,
) -> float:
    """The error of a file's box scores; its boxes have to be right to the pixel.

    Args:
        maps: the file's own, (B, K, H, W).
        found: the file's boxes (B, K, M, 4) and their scores (B, K, M).
        likely: how likely each class is to be there, (B, K), by eager PyTorch.
        tolerance: of the scores, relative to the largest.

    Raises:
        ProofError: other boxes, or other scores; the message says where.
    """
    assert request.boxes is not None
    boxes, scores = (value.cpu().numpy() for value in found)
    shape = (*maps.shape[:2], request.boxes.most)
    if boxes.shape != (*shape, 4) or scores.shape != shape:
        raise ProofError(
            f"the file gives boxes {boxes.shape} and box_scores {scores.shape} for maps "
            f"{tuple(maps.shape)}, expected {(*shape, 4)} and {shape}"
        )
    expected = np.zeros(shape)
    for place in np.ndindex(shape[:2]):
        saliency_map = maps[place].cpu().numpy()
        if not request.normalize:
            saliency_map = _normalized(saliency_map)
        fitting = list(expected_boxes(saliency_map, request.boxes.most))
        if not any(np.array_equal(boxes[place], each) for each in fitting):
            raise ProofError(
                f"the file finds the boxes {boxes[place].tolist()} on map {place[1]} of image "
                f"{place[0]}, whose regions above Otsu's threshold are in {fitting[0].tolist()}"
            )
        expected[place] = (
            box_means(saliency_map, boxes[place]) * likely[place].double().cpu().numpy()
        )
    error = float(np.abs(scores - expected).max() / max(expected.max(), np.finfo(np.float32).tiny))
    if not error <= tolerance:
        raise ProofError(
            f"box_scores from the file are off by {error:.1e} of the largest, allowed is "
            f"{tolerance:.0e}"
        )
    return error


def likelihoods(request: Request, ranking: Tensor, classes: Tensor) -> Tensor:
    """How likely classes (B, K) are to be there, by their scores (B, N), in double precision.

    A class of -1 is none: its map is empty, and has no boxes.
    """
    assert request.boxes is not None
    scores = ranking.double()
    kinds = {"softmax": scores.softmax(dim=1), "sigmoid": 1 / (1 + (-scores).exp())}
    likely = kinds.get(request.boxes.confidence, torch.ones_like(scores))
    return likely.gather(1, classes.clamp(min=0))


def _normalized(saliency_map: NDArray[np.float32]) -> NDArray[np.float32]:
    lowest, highest = saliency_map.min(), saliency_map.max()
    span: np.float32 = highest - lowest + np.float32(NORMALIZE_EPS)
    normalized: NDArray[np.float32] = (saliency_map - lowest) / span
    return normalized


class Region(NamedTuple):
    """A connected region: its number of pixels, its first one, and its box."""

    area: int
    first: tuple[int, int]  # y, x
    box: tuple[int, int, int, int]  # x1, y1, x2, y2


def expected_boxes(saliency_map: NDArray[np.float32], count: int) -> Iterator[NDArray[np.float32]]:
    """The boxes (count, 4) of a map (H, W) in [0, 1], for each level that is as good as the best.

    There is more than one where two levels part the pixels equally well, or where no pixel is
    between them.
    """
    grey = np.floor(np.clip(saliency_map, 0, 1) * np.float32(_LEVELS - 1)).astype(int)
    # The pixels above a level are among those above a lower one: their number tells them apart.
    masks = {int((grey > level).sum()): grey > level for level in _best_levels(grey)}
    for mask in masks.values():
        yield _largest(mask, count)


def box_means(saliency_map: NDArray[Any], boxes: NDArray[Any]) -> NDArray[np.float64]:
    """The mean of a map (H, W) in each box (M, 4), 0 for padding."""
    means = [
        saliency_map[y1:y2, x1:x2].mean(dtype=np.float64) if x2 > x1 else 0.0
        for x1, y1, x2, y2 in boxes.astype(int).tolist()
    ]
    return np.array(means)


def _best_levels(grey: NDArray[Any]) -> list[int]:
    """Otsu's levels: those that set the pixels up to them and above them farthest apart."""
    counts = np.bincount(grey.ravel(), minlength=_LEVELS).tolist()
    pixels, total = sum(counts), sum(level * n for level, n in enumerate(counts))
    variances = []
    below = sum_below = 0
    for level, n in enumerate(counts):
        below, sum_below = below + n, sum_below + level * n
        above = pixels - below
        if not below or not above:
            variances.append(0.0)
            continue
        apart = sum_below * above - (total - sum_below) * below  # whole numbers of any size
        variances.append(apart * apart / (below * above))
    best = max(variances)
    if best == 0:  # a map of one level
        return [0]
    return [level for level, each in enumerate(variances) if each >= best * (1 - _AS_GOOD)]


def _largest(mask: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """The boxes of the largest regions, padded with -1."""
    regions = sorted(_regions(mask), key=lambda region: (-region.area, region.first))[:count]
    boxes = [region.box for region in regions] + [(-1,) * 4] * (count - len(regions))
    return np.array(boxes, dtype=np.float32)


def _regions(mask: NDArray[np.bool_]) -> list[Region]:
    """The regions of 8 neighbours, put together row by row from the runs of each."""
    regions: list[Region] = []
    open_runs: list[tuple[int, int, int]] = []  # start, end and region of the runs of the row above
    parents: list[int] = []

    def root(n: int) -> int:
        while parents[n] != n:
            n = parents[n]
        return n

    for y, row in enumerate(mask):
        runs = []
        for x1, x2 in _runs(row):
            n = len(regions)
            parents.append(n)
            regions.append(Region(x2 - x1, (y, x1), (x1, y, x2, y + 1)))
            for start, end, other in open_runs:
                if start <= x2 and x1 <= end:  # corners touch, too
                    kept, gone = sorted((root(other), root(n)))
                    if kept != gone:
                        parents[gone] = kept
                        regions[kept] = _united(regions[kept], regions[gone])
            runs.append((x1, x2, n))
        open_runs = runs
    return [region for n, region in enumerate(regions) if parents[n] == n]


def _runs(row: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of the pixels of a row that lie side by side."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _united(one: Region, other: Region) -> Region:
    x1, y1, x2, y2 = zip(one.box, other.box, strict=True)
    box = (min(x1), min(y1), max(x2), max(y2))
    return Region(one.area + other.area, min(one.first, other.first), box)
