"""Keypoints: where a detection's heat maps are highest, one detection at a time in a loop.

Torchvision enlarges the heat maps of each detection to the whole pixels of its box, of another
size each, which a graph cannot hold. Here they are enlarged to the image's size, by the same
weights, and what lies beyond the box does not count.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from camcore.export.detectors.geometry import Size, quotient_and_rest
from camcore.export.passes.loops import stack_chunks

# That of PyTorch's bicubic interpolation.
_A = -0.75


def find_keypoints(maps: Tensor, rois: Tensor, most: Size) -> tuple[Tensor, Tensor]:
    """Keypoints (D, N, 3) as x, y and 1, and their scores (D, N), of heat maps (D, N, h, w).

    `rois` (D, 4) are x1, y1, x2, y2 in pixels, none larger than `most` (H, W).

    Source: torchvision's `heatmaps_to_keypoints`
    """

    def step(values: Any, numbers: Tensor) -> Tensor:
        maps, rois, down, across = values
        heat, box = maps.index_select(0, numbers)[0], rois.index_select(0, numbers)[0]
        sides = (box[2:] - box[:2]).clamp(min=1)
        pixels = sides.ceil()
        rows = _bicubic(down, pixels[1], heat.shape[1])
        columns = _bicubic(across, pixels[0], heat.shape[2])
        enlarged = rows @ heat @ columns.transpose(0, 1)
        inside = (down < pixels[1])[:, None] & (across < pixels[0])
        flat = torch.where(inside, enlarged, float("-inf")).flatten(1)
        score, place = flat.max(dim=1)
        row, column = quotient_and_rest(place, across.shape[0])
        x = (column + 0.5) * (sides[0] / pixels[0]) + box[0]
        y = (row + 0.5) * (sides[1] / pixels[1]) + box[1]
        return torch.stack([x, y, torch.ones_like(x), score], dim=1)[None]

    # One more, as nothing may have been found.
    count = maps.shape[0]
    lines = (torch.arange(side, device=maps.device).to(maps.dtype) for side in most)
    values = (F.pad(maps, (0, 0, 0, 0, 0, 0, 0, 1)), F.pad(rois, (0, 0, 0, 1)), *lines)
    found = stack_chunks(step, values, count + 1, 1).narrow(0, 0, count)
    return found[..., :3], found[..., 3]


def _bicubic(pixels: Tensor, length: Tensor, points: int) -> Tensor:
    """(n, points): the weights of the points in n pixels, of which the first `length` count."""
    at = (pixels + 0.5) * (points / length) - 0.5
    first = at.floor()
    weights = pixels.new_zeros(pixels.shape[0], points)
    every = torch.arange(points, device=length.device)
    for tap in range(-1, 3):
        away = (at - (first + tap)).abs()
        near = ((_A + 2) * away - (_A + 3)) * away * away + 1
        far = ((_A * away - 5 * _A) * away + 8 * _A) * away - 4 * _A
        weight = torch.where(away <= 1, near, far)
        place = (first + tap).clamp(0, points - 1)
        weights = weights + weight[:, None] * (place[:, None] == every)
    return weights
