"""Masks and maps for what is found in them: hard shapes, touching corners, and noise."""

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st


def spiral(height: int, width: int) -> np.ndarray:
    """A path from the corner inwards, its turns one pixel apart."""
    mask = np.zeros((height, width), dtype=bool)
    y, x = 0, -1
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    lengths = [width, height - 1, width - 1]
    down, across = height - 3, width - 3
    while down > 0 and across > 0:
        lengths += [down, across]
        down, across = down - 2, across - 2
    for turn, length in enumerate(lengths):
        for _ in range(length):
            y, x = y + steps[turn % 4][0], x + steps[turn % 4][1]
            mask[y, x] = True
    return mask


def comb(height: int, width: int) -> np.ndarray:
    """Teeth that hang together in the last row alone."""
    mask = np.zeros((height, width), dtype=bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def rings(height: int, width: int) -> np.ndarray:
    """Frames, each in the hole of another."""
    y, x = np.mgrid[:height, :width]
    edge = np.minimum(np.minimum(y, x), np.minimum(height - 1 - y, width - 1 - x))
    return edge % 2 == 0


def corners(height: int, width: int) -> np.ndarray:
    """A chessboard, whose squares touch by their corners."""
    return np.add.outer(np.arange(height), np.arange(width)) % 2 == 0


def one_pixel(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 2, width // 3] = True
    return mask


def empty(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), dtype=bool)


def full(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), dtype=bool)


SHAPES = (spiral, comb, rings, corners, one_pixel, empty, full)


def random_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A shape, turned or turned inside out and with some pixels flipped, or noise alone."""
    if rng.random() < 0.4:
        return rng.random((height, width)) < rng.choice([0.1, 0.3, 0.5, 0.7, 0.9])
    turned = rng.random() < 0.5
    shape = SHAPES[rng.integers(len(SHAPES))]
    mask = shape(width, height).T if turned else shape(height, width)
    mask = mask[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])] ^ (rng.random() < 0.2)
    return mask ^ (rng.random((height, width)) < rng.choice([0, 0, 0.02, 0.1]))


def random_map(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A float32 map in [0, 1]: noise of some distribution, few levels, two blobs, or constant."""
    noise = rng.random((height, width), dtype=np.float32)
    kind = rng.integers(4)
    if kind == 0:
        return noise ** np.float32(rng.choice([0.3, 1, 4]))
    if kind == 1:
        levels = rng.integers(0, 256, rng.integers(1, 5)).astype(np.float32) / 255
        return levels[rng.integers(0, len(levels), (height, width))]
    if kind == 2:
        return np.full((height, width), rng.choice([0, 0.3, 1]), dtype=np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    blobs = [
        np.exp(-((y - height * a) ** 2 + (x - width * b) ** 2) / (1 + 20 * c))
        for a, b, c in rng.random((2, 3))
    ]
    return np.clip(np.maximum(*blobs) + 0.05 * noise, 0, 1).astype(np.float32)


@st.composite
def masks(draw: st.DrawFn, *, largest: int = 16) -> np.ndarray:
    """Masks (..., H, W). Drawn from a seed: shapes are what shrinking should search."""
    leading = draw(st.sampled_from([(), (2,), (2, 3), (0,)]))
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = [random_mask(rng, height, width) for _ in range(int(np.prod(leading)))]
    return np.array(found, dtype=bool).reshape(*leading, height, width)


@st.composite
def maps(draw: st.DrawFn, *, largest: int = 24) -> np.ndarray:
    """Maps (..., H, W) in [0, 1], float32."""
    leading = draw(st.sampled_from([(), (2,), (2, 3), (0,)]))
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = [random_map(rng, height, width) for _ in range(int(np.prod(leading)))]
    return np.array(found, dtype=np.float32).reshape(*leading, height, width)


def variance_between(grey: np.ndarray, level: int) -> Fraction:
    """Otsu's variance between the pixels up to a level and above it, exactly."""
    low, high = grey[grey <= level].astype(int), grey[grey > level].astype(int)
    if not low.size or not high.size:
        return Fraction(0)
    apart = Fraction(int(low.sum()), low.size) - Fraction(int(high.sum()), high.size)
    return Fraction(low.size * high.size, grey.size**2) * apart**2
