"""Geometry: where the points of a map lie in the image that the detector was given.

A detector resizes its image, and may pad it below and to the right; its levels cover the padded
image, its regions are in the pixels of the resized one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camcore.scaling import interpolation_weights

# Of int; in a graph of images of any size, symbolic integers or tensors () of int64.
Size = tuple[Any, Any]


class Frame(NamedTuple):
    """The size of the image as it is given, as the detector resizes it, and with its padding."""

    image: Size
    resized: Size
    padded: Size


# Of an image (1, C, H, W).
Framing = Callable[[Tensor], Frame]


def quotient_and_rest(numbers: Tensor, by: Any) -> tuple[Tensor, Tensor]:
    """Whole numbers divided by a size; torch.onnx knows no remainder of a symbolic one."""
    quotient = numbers // by
    return quotient, numbers - quotient * by


def over_level(maps: Tensor, frame: Frame) -> Tensor:
    """Maps (..., h, w) of a level placed in the image, (..., H, W).

    Bilinear between the points, each in the middle of its share of the padded image.
    """
    sizes = zip(frame.image, frame.resized, frame.padded, maps.shape[-2:], strict=True)
    rows, columns = (_of_axis(maps, *each) for each in sizes)
    return rows @ maps @ columns.transpose(0, 1)


def _of_axis(like: Tensor, image: Any, resized: Any, padded: Any, points: Any) -> Tensor:
    # Pixel n of the image lies at (n + 1/2) resized / image of the padded one, which has `points`.
    pixels = torch.arange(image, device=like.device)
    unit = 2 * image * padded
    at = (2 * pixels + 1) * resized * points - image * padded
    found: Tensor = interpolation_weights(like, at, points, unit)
    return found


def over_regions(maps: Tensor, corners: Tensor, frame: Frame) -> Tensor:
    """Maps (D, h, w) of regions placed in the image, (D, H, W), zero outside.

    `corners` (D, 4) are x1, y1, x2, y2 in the pixels of the resized image.
    """
    rows = _of_region(corners[:, 1], corners[:, 3], maps.shape[1], frame.image[0], frame.resized[0])
    columns = _of_region(
        corners[:, 0], corners[:, 2], maps.shape[2], frame.image[1], frame.resized[1]
    )
    return rows @ maps @ columns.transpose(1, 2)


def _of_region(low: Tensor, high: Tensor, points: int, image: Any, resized: Any) -> Tensor:
    """(D, image, points): the weights of the points of a region in the image's pixels."""
    pixels: Tensor = (torch.arange(image, device=low.device).to(low.dtype) + 0.5) * resized / image
    low, high = low[:, None], high[:, None]
    share = (pixels - low) / (high - low).clamp(min=1e-6)  # (D, image): 0 to 1 inside
    inside = (share >= 0) & (share <= 1)
    at = (share * points - 0.5).clamp(0, points - 1)
    places = torch.arange(points, device=low.device).to(low.dtype)
    weights = (1 - (at[..., None] - places).abs()).clamp(min=0)
    return weights * inside[..., None].to(low.dtype)
