"""Sampling at places that a grid says, as deformable attention does: in sums of gathered corners.

Autograd's own gradient of `grid_sampler_2d` has no forward form, but its parts have.
"""

import torch
from torch import Tensor

_BILINEAR, _ZEROS = 0, 0


def has_corners(interpolation: int, padding: int) -> bool:
    """Whether `sample_corners` is made for that way of sampling."""
    return interpolation == _BILINEAR and padding == _ZEROS


def sample_corners(x: Tensor, grid: Tensor, align_corners: bool) -> Tensor:
    """What `grid_sampler_2d` gives of x (N, C, H, W) at a grid (N, h, w, 2), (N, C, h, w), bilinear
    and zero beyond the border: of four corners, each times how near it is.

    Y = sum over corners (i, j) of (1 - |y - i|) (1 - |x - j|) X_ij
    """
    height, width = x.shape[2], x.shape[3]
    across = _places(grid[..., 0], width, align_corners)
    down = _places(grid[..., 1], height, align_corners)
    left, top = across.detach().floor(), down.detach().floor()
    flat = x.flatten(2)
    found = None
    for j in (0, 1):
        for i in (0, 1):
            column, row = left + j, top + i
            near = (1 - (across - column).abs()) * (1 - (down - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            # (N, C, h w)
            index = index.to(torch.int64).flatten(1)[:, None].expand(-1, x.shape[1], -1)
            corner = flat.gather(2, index).reshape(x.shape[0], x.shape[1], *grid.shape[1:3])
            own = corner * (near * inside)[:, None]
            found = own if found is None else found + own
    assert found is not None
    return found


def _places(share: Tensor, length: int, align_corners: bool) -> Tensor:
    """Where -1 to 1 is among the points of an axis."""
    if align_corners:
        return (share + 1) / 2 * (length - 1)
    return ((share + 1) * length - 1) / 2
