"""A picture to prepare as a library does."""

import numpy as np


def picture() -> np.ndarray:
    """Smooth, of three colours, wider than high."""
    rows, columns = np.mgrid[:300, :400] / 400
    colours = [rows, np.sin(6 * columns) ** 2, np.cos(5 * rows * columns) ** 2]
    return np.round(255 * np.stack(colours, axis=-1)).astype(np.uint8)
