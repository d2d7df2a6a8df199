"""Pixels to images and back; what graphs make of pixels is looked at in `test_subject`."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from camcore.card import ImageSpec
from camcore.export.trace.pixels import as_pixels, prepare

SPEC = ImageSpec(None, None, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def random_pixels(seed: int, batch: int, sizes: list[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, *sizes, 3), dtype=torch.uint8, generator=generator)


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_each_pixel_by_its_own_channel(
    seed: int, batch: int, sizes: list[int], dtype: torch.dtype
) -> None:
    pixels = random_pixels(seed, batch, sizes)
    found = prepare(pixels, SPEC, dtype)
    assert found.dtype == dtype
    assert found.shape == (batch, 3, *sizes)
    for channel, (mean, std) in enumerate(zip(SPEC.mean, SPEC.std, strict=True)):
        expected = (pixels[..., channel].numpy() / 255.0 - mean) / std
        np.testing.assert_allclose(found[:, channel], expected, rtol=0, atol=1e-5)


@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_there_and_back(seed: int, sizes: list[int]) -> None:
    """Levels half a step above a pixel's are that pixel's."""
    pixels = random_pixels(seed, 2, sizes)
    levels = (pixels.to(torch.float64).movedim(-1, 1) + 0.5) / 255
    assert torch.equal(as_pixels(levels), pixels)
