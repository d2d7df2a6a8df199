"""Faithfulness: how much of a class's probability hangs on what its map shows.

Nothing has to be annotated: parts of the image are taken away or put back by the map, and the file
says what it thinks of the rest. Images are masked as the graph takes them, normalised, so that what
is taken away has the mean colour, 0.

Source: Chattopadhyay et al. 2018, https://arxiv.org/abs/1710.11063, for average drop and increase
in confidence; Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, for insertion and deletion;
Poppi et al. 2021, https://arxiv.org/abs/2104.10252, for ADCC; Rong et al. 2022,
https://arxiv.org/abs/2202.00449, for ROAD.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.evaluation.imputation import impute
from camcore.adapters.evaluation.scorer import Scorer
from camcore.card import Card
from camcore.errors import InputError

STEPS = 20  # parts in which an image is taken away, or put back
PERCENTILES = tuple(range(10, 100, 10))  # of the map, up to which ROAD takes pixels away
NOISE = 0.01  # on pixels that ROAD has put back, so that nothing tells them by their smoothness

NAMES = ("average_drop", "increase", "insertion", "deletion", "adcc", "road")

# A probability for each of some images, of the class that is explained.
Confidence = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def check_card(card: Card) -> None:
    """Raises an `InputError` of a file whose images cannot be masked by its maps."""
    if card.is_detector:
        raise InputError("faithfulness is that of a class's map, and the file is a detector's")
    if card.image.dtype != "float32" or card.image.spatial_ndim != 2:
        raise InputError(
            "faithfulness is measured on normalised images (B, C, H, W), which the file does not "
            "take; export it without --pixels"
        )
    if card.map_size != "image" or not card.options.get("normalize", True):
        raise InputError(
            "faithfulness wants maps in [0, 1] of the image's size; export the file without "
            "--map-size feature and --no-normalize"
        )


def faithfulness(
    image: NDArray[np.float32],
    saliency_map: NDArray[np.float32],
    label: int,
    scorer: Scorer,
    explain: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    rng: np.random.Generator,
) -> dict[str, float]:
    """All figures of the map (H, W) of a class of an image (C, H, W).

    `explain` gives the map of that class of another image. Everything that the file is to say of
    masked images is asked at once.
    """

    def confidence(images: NDArray[np.float32]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = scorer(images)[:, label]
        return found

    masked = image * saliency_map
    deleted, inserted = perturbed(image, saliency_map)
    relevant, irrelevant = removed(image, saliency_map, rng)
    parts = [image[None], masked[None], deleted, inserted, relevant, irrelevant]
    values = confidence(np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    (before,), (after,), deletion, insertion, most, least = np.split(values, ends)
    drop = average_drop(before, after)
    return {
        "average_drop": drop,
        "increase": float(after > before),
        "insertion": area(insertion, saliency_map.size),
        "deletion": area(deletion, saliency_map.size),
        "adcc": adcc(saliency_map, explain(masked), drop),
        "road": float(np.mean(least - most) / 2),
    }


def average_drop(before: float, after: float) -> float:
    """The share of the probability that is lost where the image is weighted with the map.

    >>> average_drop(0.8, 0.6), average_drop(0.5, 0.6)
    (0.25, 0.0)
    """
    return round(float(max(before - after, 0) / (before + 1e-7)), 6)


def perturbed(
    image: NDArray[np.float32], saliency_map: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The image (C, H, W) with more and more taken away from the map's highest pixels on, and with
    more and more of them there, (STEPS + 1, C, H, W) twice.

    Of equal pixels the first in reading order counts as higher.
    """
    pixels = saliency_map.size
    order = np.argsort(-saliency_map, axis=None, kind="stable")
    rank = np.empty(pixels, np.int64)
    rank[order] = np.arange(pixels)
    first = rank.reshape(saliency_map.shape) < _counts(pixels)[:, None, None]
    return image * ~first[:, None], image * first[:, None]


def _counts(pixels: int) -> NDArray[np.int64]:
    """How many pixels are changed at each step."""
    step = -(-pixels // STEPS)
    return np.minimum(np.arange(STEPS + 1) * step, pixels)


def area(curve: NDArray[np.float64], pixels: int) -> float:
    """The area under the probabilities at each step, over the share of the pixels changed by then.

    >>> area(np.linspace(0, 1, STEPS + 1), 4000)
    0.5
    """
    widths = np.diff(_counts(pixels) / pixels)
    return round(float(np.sum(widths * (curve[1:] + curve[:-1]) / 2)), 6)


def adcc(saliency_map: NDArray[np.float32], again: NDArray[np.float32], drop: float) -> float:
    """The harmonic mean of three: how alike the map is to that of the image weighted with it, how
    little it covers, and how little is lost by it. 0 where one of them is.

    >>> saliency_map = np.array([[0.0, 1.0]])
    >>> adcc(saliency_map, saliency_map, 0.5)
    0.6
    """
    parts = [coherency(saliency_map, again), 1 - float(np.mean(saliency_map)), 1 - drop]
    return 0.0 if min(parts) <= 0 else round(3 / sum(1 / part for part in parts), 6)


def coherency(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How alike two maps are: their correlation, in [0, 1]; 0.5 where one is the same everywhere.

    >>> coherency(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0]))
    0.0
    """
    a, b = (np.asarray(each, np.float64) - np.mean(each, dtype=np.float64) for each in (one, other))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return 0.5 if norm == 0 else (float((a * b).sum()) / norm + 1) / 2


def removed(
    image: NDArray[np.float32], saliency_map: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The image without its most relevant pixels, and without its least relevant ones, at each of
    `PERCENTILES`, (9, C, H, W) twice; what was taken away is imputed from what is around it.
    """

    def without(relevance: NDArray[np.float32], percentile: int) -> NDArray[np.float32]:
        kept = relevance < np.percentile(relevance, percentile)
        noise = rng.normal(0, NOISE, image.shape).astype(np.float32)
        return impute(image, kept) + noise * ~kept

    return (
        np.stack([without(saliency_map, each) for each in PERCENTILES]),
        np.stack([without(1 - saliency_map, each) for each in PERCENTILES]),
    )


def mean_figures(entries: Iterable[Mapping[str, Any]]) -> dict[str, float] | None:
    """The means over the images of a record, None where none has any."""
    total, count = np.zeros(len(NAMES)), 0
    for entry in entries:
        if "faithfulness" in entry:
            total += [entry["faithfulness"][name] for name in NAMES]
            count += 1
    if count == 0:
        return None
    return dict(zip(NAMES, (total / count).tolist(), strict=True))
