"""Proof: a converted file beside the original, on images."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.runner import Explanation, Runner
from camcore.errors import ProofError

# A peak has stayed where it moved by less than this part of the map's longer side.
_NEAR = 0.05


@dataclass(frozen=True)
class Comparison:
    """What two files give for the same images.

    `best_class_kept` is the share of images whose best class is the same. `maps` is how many maps
    were compared, those of the classes that the original explains, less those that are the same
    everywhere in both files. `map_correlation` is their mean and `worst_correlation` the least,
    `peak_kept` the share whose highest point stayed, to a twentieth of the map's longer side.
    `scores_off` and `maps_off` are the largest differences, that of the scores in parts of the
    largest score.
    """

    images: int
    maps: int
    best_class_kept: float
    map_correlation: float
    worst_correlation: float
    peak_kept: float
    scores_off: float
    maps_off: float


def compare(original: Runner, converted: Runner, images: Iterable[NDArray[Any]]) -> Comparison:
    """The two files beside each other on images, each (1, ...) as the graph takes it.

    Raises:
        ProofError: all maps are the same everywhere, so that there is nothing to compare.
    """
    kept: list[bool] = []
    scores: list[float] = []
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for image in images:
        expected, given = original(image), converted(image)
        kept.append(bool((expected.classes == given.classes).all()))
        if not kept[-1] and original.card.takes_ids:
            given = converted(image, class_ids=expected.classes)
        scores += [_off(expected, given, name) for name in original.card.own_outputs]
        pairs += zip(expected.saliency_map[0], given.saliency_map[0], strict=True)
    pairs = [pair for pair in pairs if any(each.max() > each.min() for each in pair)]
    if not pairs:
        raise ProofError(
            f"the maps of all {len(kept)} images are empty, and nothing can be told of the "
            "converted file; give photographs of what the model knows, with --images"
        )
    alike = [correlation(one, other) for one, other in pairs]
    return Comparison(
        images=len(kept),
        maps=len(pairs),
        best_class_kept=float(np.mean(kept)),
        map_correlation=float(np.mean(alike)),
        worst_correlation=float(np.min(alike)),
        peak_kept=float(np.mean([_moved(one, other) <= _NEAR for one, other in pairs])),
        scores_off=max(scores),
        maps_off=max(float(np.abs(one - other).max()) for one, other in pairs),
    )


def correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Pearson's of two maps; of two that are the same everywhere 1, of one that is 0.

    >>> float(round(correlation(np.array([[0.0, 1.0]]), np.array([[0.5, 2.5]])), 6))
    1.0
    """
    one, other = (each.astype(np.float64) - each.mean(dtype=np.float64) for each in (one, other))
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    if scale == 0:
        return float(not one.any() and not other.any())
    return float((one * other).sum() / scale)


def _moved(one: NDArray[Any], other: NDArray[Any]) -> float:
    """How far the highest points of two maps are apart, in parts of the longer side."""
    places = [np.array(np.unravel_index(each.argmax(), each.shape)) for each in (one, other)]
    return float(np.abs(places[0] - places[1]).max() / max(one.shape))


def _off(expected: Explanation[Any], given: Explanation[Any], name: str) -> float:
    """The largest difference of an output, in parts of its largest value."""
    value = expected[name].astype(np.float64)
    off = np.abs(given[name] - value).max(initial=0)
    return float(off / max(np.abs(value).max(initial=0), np.finfo(np.float32).tiny))
