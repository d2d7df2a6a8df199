"""Geometry: where the points of a map lie in the image that the detector was given.

A detector resizes its image, and may pad it below and to the right; its levels cover the padded
image, its regions are in the pixels of the resized one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camcore.scaling import interpolation_weights


@dataclass(frozen=True)
class Frame:
    """The size of the image as it is given, as the detector resizes it, and with its padding."""

    image: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]


def over_level(frame: Frame, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Matrices (H, h) and (W, w) that place a level's map in the image.

    Bilinear between the points, each in the middle of its share of the padded image.
    """
    rows, columns = (
        _of_axis(*sizes)
        for sizes in zip(frame.image, frame.resized, frame.padded, grid, strict=True)
    )
    return rows, columns


def _of_axis(image: int, resized: int, padded: int, points: int) -> Tensor:
    # Pixel n of the image lies at (n + 1/2) resized / image of the padded one, which has `points`.
    pixels = torch.arange(image)
    unit = 2 * image * padded
    at = (2 * pixels + 1) * resized * points - image * padded
    found: Tensor = interpolation_weights(torch.zeros(1), at, points, unit)
    return found


class OverLevel(nn.Module):
    """Places maps (..., h, w) of a level in the image, (..., H, W), by `over_level`'s matrices."""

    rows: Tensor
    columns: Tensor

    def __init__(self, placement: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        for name, matrix in zip(("rows", "columns"), placement, strict=True):
            self.register_buffer(name, matrix)

    def forward(self, maps: Tensor) -> Tensor:
        return self.rows @ maps @ self.columns.transpose(0, 1)


def over_regions(maps: Tensor, corners: Tensor, frame: Frame) -> Tensor:
    """Maps (D, h, w) of regions placed in the image, (D, H, W), zero outside.

    `corners` (D, 4) are x1, y1, x2, y2 in the pixels of the resized image.
    """
    rows = _of_region(corners[:, 1], corners[:, 3], maps.shape[1], frame.image[0], frame.resized[0])
    columns = _of_region(
        corners[:, 0], corners[:, 2], maps.shape[2], frame.image[1], frame.resized[1]
    )
    return rows @ maps @ columns.transpose(1, 2)


def _of_region(low: Tensor, high: Tensor, points: int, image: int, resized: int) -> Tensor:
    """(D, image, points): the weights of the points of a region in the image's pixels."""
    pixels = (torch.arange(image, device=low.device).to(low.dtype) + 0.5) * (resized / image)
    low, high = low[:, None], high[:, None]
    share = (pixels - low) / (high - low).clamp(min=1e-6)  # (D, image): 0 to 1 inside
    inside = (share >= 0) & (share <= 1)
    at = (share * points - 0.5).clamp(0, points - 1)
    places = torch.arange(points, device=low.device).to(low.dtype)
    weights = (1 - (at[..., None] - places).abs()).clamp(min=0)
    return weights * inside[..., None].to(low.dtype)
