"""Faithfulness: how much of a class's probability hangs on what its map shows.

Nothing has to be annotated: parts of the image are taken away or put back by the map, and the file
says what it thinks of the rest. Images are masked as the graph takes them, normalised, so that what
is taken away has the mean colour, 0.

Source: Chattopadhyay et al. 2018, https://arxiv.org/abs/1710.11063, for average drop and increase
in confidence; Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, for insertion and deletion;
Poppi et al. 2021, https://arxiv.org/abs/2104.10252, for ADCC; Rong et al. 2022,
https://arxiv.org/abs/2202.00449, for ROAD; https://arxiv.org/abs/2605.14641 for ARCC.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.evaluation.imputation import impute
from camcore.adapters.evaluation.scorer import Scorer
from camcore.card import Card
from camcore.errors import InputError

STEPS = 20  # parts in which an image is taken away, or put back
PERCENTILES = tuple(range(10, 100, 10))  # of the map, up to which ROAD takes pixels away
ARCC_PERCENTILES = (20, 40, 60, 80)  # those of them that ARCC looks at
NOISE = 0.01  # on pixels that ROAD has put back, so that nothing tells them by their smoothness

NAMES = ("average_drop", "increase", "insertion", "deletion", "adcc", "road", "arcc")

# A probability for each of some images, of the class that is explained.
Confidence = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def check_card(card: Card) -> None:
    """Raises an `InputError` of a file whose images cannot be masked by its maps, or whose map of
    a class cannot be asked for.
    """
    if card.is_detector:
        raise InputError("faithfulness is that of a class's map, and the file is a detector's")
    if card.class_ids == "best":
        raise InputError(
            "faithfulness compares maps of one class, and the file explains whichever is best; "
            "export it with --class-ids required, or all"
        )
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
    drop, again = average_drop(before, after), explain(masked)
    return {
        "average_drop": drop,
        "increase": float(after > before),
        "insertion": area(insertion, saliency_map.size),
        "deletion": area(deletion, saliency_map.size),
        "adcc": adcc(saliency_map, again, drop),
        "road": float(np.mean(least - most) / 2),
        "arcc": arcc(saliency_map, again, least - most),
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
    return _harmonic_mean(coherency(saliency_map, again), _smallness(saliency_map), 1 - drop)


def arcc(
    saliency_map: NDArray[np.float32], again: NDArray[np.float32], gains: NDArray[np.float64]
) -> float:
    """ADCC with ROAD, doubled and no less than 0, in place of what is lost; as pytorch-grad-cam has
    it. `gains` are the differences without the least and without the most relevant pixels, at each
    of `PERCENTILES`.

    >>> saliency_map = np.array([[0.0, 1.0]])
    >>> arcc(saliency_map, saliency_map, np.full(9, 0.5))
    0.6
    """
    seen = np.isin(PERCENTILES, ARCC_PERCENTILES)
    road = float(np.clip(np.mean(gains[seen]), 0, 1))
    return _harmonic_mean(coherency(saliency_map, again), _smallness(saliency_map), road)


def _smallness(saliency_map: NDArray[np.float32]) -> float:
    """How little a map covers."""
    return 1 - float(np.mean(saliency_map))


def _harmonic_mean(*parts: float) -> float:
    return 0.0 if min(parts) <= 0 else round(len(parts) / sum(1 / part for part in parts), 6)


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


@dataclass
class MeanFaithfulness:
    """The means of all figures over images, added one after the other."""

    images: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(NAMES)))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add what was measured of an image, if anything was."""
        if "faithfulness" in entry:
            self.images += 1
            self.total += [entry["faithfulness"][name] for name in NAMES]

    def figures(self) -> dict[str, float] | None:
        """The means, None where nothing was measured."""
        if self.images == 0:
            return None
        return dict(zip(NAMES, (self.total / self.images).tolist(), strict=True))
