"""Images as pixels: what the graph takes where it prepares its images itself."""

import torch
from torch import Tensor

from camcore.card import ImageSpec


def prepare(pixels: Tensor, spec: ImageSpec, dtype: torch.dtype) -> Tensor:
    """Images as models take them, (B, C, *S), of uint8 (B, *S, C): scaled to 1 and normalised."""
    mean, std = (
        torch.tensor(values, dtype=dtype, device=pixels.device) for values in (spec.mean, spec.std)
    )
    return ((pixels.to(dtype) / 255 - mean) / std).movedim(-1, 1)


def as_pixels(levels: Tensor) -> Tensor:
    """Levels from 0 to 1, (B, C, *S), as uint8 (B, *S, C)."""
    return (255 * levels).movedim(1, -1).to(torch.uint8)
