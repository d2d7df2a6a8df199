"""Imputation: pixels that were taken from an image, put back from those around them.

Source: Rong et al. 2022, https://arxiv.org/abs/2202.00449, section 4 and its noisy linear imputer.
"""

import numpy as np
from numpy.typing import NDArray

# The weight of each neighbour, by its offset in rows and columns; they add up to 1.
_WEIGHTS = {
    (row, column): 1 / 6 if 0 in (row, column) else 1 / 12
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if (row, column) != (0, 0)
}


def impute(image: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """An image (C, H, W) in which each pixel that is not kept, (H, W), is the weighted mean of its
    neighbours, those among them that are not kept either as they come to be.

    It is one sparse system for all missing pixels. Of an image of which nothing is kept nothing is
    known: it comes back as zeros.

    >>> image = np.array([[[0.0, 7.0, 3.0]]], np.float32)
    >>> impute(image, np.array([[True, False, True]]))
    array([[[0. , 1.5, 3. ]]], dtype=float32)
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    if kept.all():
        return image
    if not kept.any():
        return np.zeros_like(image)
    height, width = kept.shape
    rows, columns = np.nonzero(~kept)
    count = len(rows)
    number = np.full(kept.shape, -1)
    number[rows, columns] = np.arange(count)
    weights = np.zeros(count)
    known = np.zeros((count, len(image)))
    entries: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    for (row, column), weight in _WEIGHTS.items():
        y, x = rows + row, columns + column
        (inside,) = np.nonzero((y >= 0) & (y < height) & (x >= 0) & (x < width))
        y, x = y[inside], x[inside]
        weights[inside] += weight
        there = kept[y, x]
        known[inside[there]] += weight * image[:, y[there], x[there]].T
        missing = inside[~there]
        values = np.full(len(missing), -weight)
        entries.append((missing, number[y[~there], x[~there]], values))
    diagonal = np.arange(count)
    entries.append((diagonal, diagonal, weights))
    at_row, at_column, values = (np.concatenate(each) for each in zip(*entries, strict=True))
    system = coo_matrix((values, (at_row, at_column)), shape=(count, count)).tocsc()
    filled = image.copy()
    filled[:, rows, columns] = splu(system).solve(known).T
    return filled
