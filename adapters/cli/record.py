"""The JSON record of a run: what each image gave."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.adapters import tables
from camcore.card import Card

if TYPE_CHECKING:
    from camcore.adapters.runner import Explanation


def image_record(
    path: Path, explanation: "Explanation[Any]", placement: Any, card: Card, listed: int
) -> dict[str, Any]:
    """What one image gave, as JSON takes it, with so many of its best classes."""
    import numpy as np

    from camcore.adapters.runner import class_scores

    scores = class_scores(card, explanation)

    def named(index: int) -> dict[str, Any]:
        names = card.class_names
        return {
            "class": index,
            "name": names[index] if names else str(index),
            "score": None if scores is None else float(scores[0, index]),
        }

    best: Iterable[Any] = ()
    if scores is not None:
        best = np.argsort(-scores[0], kind="stable")[:listed]
    explained = []
    boxes = _boxes(explanation, placement)
    for k, (index, saliency_map) in enumerate(
        zip(explanation.classes[0], explanation.saliency_map[0], strict=True)
    ):
        row, column = np.unravel_index(np.argmax(saliency_map), saliency_map.shape)
        centre = np.array([column + 0.5, row + 0.5])
        x, y = placement.points_to_original(centre, saliency_map.shape)
        # A map that is the same, or not finite, everywhere has no highest point.
        peaked = bool(saliency_map.max() > saliency_map.min())
        peak = {"x": round(float(x), 1), "y": round(float(y), 1)} if peaked else None
        found = {} if boxes is None else {"boxes": boxes[k]}
        explained.append({**named(int(index)), "peak": peak, **found})
    return {
        "image": str(path),
        "predictions": [named(int(index)) for index in best],
        "explained": explained,
        "overlay": None,
    }


def _boxes(explanation: "Explanation[Any]", placement: Any) -> list[list[dict[str, Any]]] | None:
    """The boxes of the first image's classes in its own pixels, None of a file that finds none."""
    if "boxes" not in explanation or "box_scores" not in explanation:
        return None
    size = explanation.saliency_map.shape[2:]
    placed = placement.boxes_to_original(explanation.boxes[0], size)
    return [
        [
            {"box": [round(edge, 1) for edge in box], "score": score}
            for box, score in zip(each.tolist(), scores.tolist(), strict=True)
            # Neither padding, nor what lies beyond the image, where the graph saw a black margin.
            if box[2] > box[0] and box[3] > box[1]
        ]
        for each, scores in zip(placed, explanation.box_scores[0], strict=True)
    ]


def record_json(file: Path, card: Card, images: Sequence[dict[str, Any]]) -> str:
    """The record of a run of that file as text, with null for what is not finite."""
    record = {
        "file": str(file),
        "output": card.explained,
        "target": tables.target_of(card),
        "images": list(images),
    }
    return json.dumps(_finite(record), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    """The value with None for each NaN and infinity in it, which JSON knows no words for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
