"""Explanation: what a file gives for a batch of images."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

A = TypeVar("A")

_MOST_SHOWN = 16  # values that an explanation's repr writes out


class Explanation(Mapping[str, A]):
    """What a file gives for a batch of images: arrays by the names of the graph's outputs.

    Each is an attribute and an item: `explanation.saliency_map` is `explanation["saliency_map"]`.
    `classes` is int64 (B, K), `saliency_map` (B, K, H, W) in [0, 1]. Before them come the model's
    own outputs: `scores` (B, N) where it returns one tensor, else those that `card.outputs` names.
    Where `card.boxes` says that the file finds M, `boxes` (B, K, M, 4) are x1, y1, x2, y2 in pixels
    of the graph's image, x2 and y2 exclusive, and `box_scores` (B, K, M) their scores, padded with
    -1 and 0; `camcore.adapters.images.Placement` puts them on the original. With `card.concepts`
    there are `concept_maps` (B, concepts, H, W) and, where the classifier is linear,
    `concept_scores` (B, concepts, N), what each adds to each class's score.

    >>> Explanation({"scores": [[0.1, 0.9]], "classes": [[1]]}).classes
    [[1]]
    """

    scores: A
    classes: A
    saliency_map: A
    boxes: A
    box_scores: A
    concept_maps: A
    concept_scores: A

    def __init__(self, arrays: Mapping[str, A]) -> None:
        vars(self).update(arrays)

    def __getitem__(self, name: str) -> A:
        return cast(A, vars(self)[name])

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {_shown(array)}" for name, array in self.items())
        return f"<{type(self).__name__}: {arrays}>"


def _shown(array: Any) -> str:
    """An array's type and shape; of class ids, which are few, their values."""
    if not hasattr(array, "shape"):
        return repr(array)
    dtype = str(array.dtype).removeprefix("torch.")
    shape = f"{dtype} ({', '.join(map(str, array.shape))})"
    few = "int" in dtype and math.prod(array.shape) <= _MOST_SHOWN
    return f"{shape} {array.tolist()}" if few else shape
