"""The JSON record of a run: what each image gave."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.adapters import tables
from camcore.card import Card
from camcore.errors import FileError

if TYPE_CHECKING:
    from camcore.adapters.runner import Explanation

STDOUT = Path("-")
_LINES = (".jsonl", ".ndjson")  # suffixes of records with an image a line


def image_record(
    path: Path, explanation: "Explanation[Any]", placement: Any, card: Card, listed: int
) -> dict[str, Any]:
    """What one image gave, as JSON takes it, with so many of its best classes."""
    import numpy as np

    from camcore.adapters.runner import class_probabilities, class_scores

    scores = class_scores(card, explanation)
    probabilities = None if scores is None else class_probabilities(card, scores)

    def named(index: int) -> dict[str, Any]:
        names = card.class_names
        return {
            "class": index,
            "name": names[index] if names else str(index),
            "score": None if scores is None else float(scores[0, index]),
            "probability": None if probabilities is None else float(probabilities[0, index]),
        }

    best: Iterable[Any] = ()
    if scores is not None:
        best = np.argsort(-scores[0], kind="stable")[:listed]
    explained = []
    for index, saliency_map in zip(
        explanation.classes[0], explanation.saliency_map[0], strict=True
    ):
        row, column = np.unravel_index(np.argmax(saliency_map), saliency_map.shape)
        centre = np.array([column + 0.5, row + 0.5])
        x, y = placement.points_to_original(centre, saliency_map.shape)
        # A map that is the same, or not finite, everywhere has no highest point.
        peaked = bool(saliency_map.max() > saliency_map.min())
        peak = {"x": round(float(x), 1), "y": round(float(y), 1)} if peaked else None
        explained.append({**named(int(index)), "peak": peak, "map": None})
    return {
        "image": str(path),
        "predictions": [named(int(index)) for index in best],
        "explained": explained,
        "overlay": None,
    }


def failed_record(path: Path, reason: str) -> dict[str, Any]:
    """The record of an image of which nothing came, and why."""
    return {
        "image": str(path),
        "error": reason,
        "predictions": [],
        "explained": [],
        "overlay": None,
    }


@contextmanager
def recording(path: Path | None, file: Path, card: Card) -> Iterator[Callable[[Any], object]]:
    """What takes the records of a run's images, one by one, and writes them.

    To a .jsonl each as a line, as soon as it is there; to another file, or to standard output, all
    of them as one record, if the run comes to its end. To None they go nowhere.

    Raises:
        FileError: the file cannot be written.
    """
    if path is None:
        yield lambda record: None
    elif path.suffix.lower() in _LINES:
        with _writing(path), path.open("w", encoding="utf-8") as lines:

            def write(record: Any) -> None:
                lines.write(json.dumps(_finite(record), allow_nan=False) + "\n")
                lines.flush()

            yield write
    else:
        records: list[Any] = []
        yield records.append
        text = record_json(file, card, records) + "\n"
        if path == STDOUT:
            sys.stdout.write(text)
        else:
            with _writing(path):
                path.write_text(text, encoding="utf-8")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except FileError:  # of another file, written meanwhile
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error


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
