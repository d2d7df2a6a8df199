"""The JSON record of a run: where what each image gave is written."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from camcore.adapters import tables
from camcore.adapters.files import writing
from camcore.card import Card

STDOUT = Path("-")
_LINES = (".jsonl", ".ndjson")  # suffixes of records with an image a line


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
        with writing(path), path.open("w", encoding="utf-8") as lines:

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
            with writing(path):
                path.write_text(text, encoding="utf-8")


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
