"""The JSON record of a run: where what each image gave is written."""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from camcore.adapters import tables
from camcore.adapters.files import reading, replacing, writing
from camcore.adapters.json_lines import parse_line, write_line
from camcore.card import Card
from camcore.errors import FileError

STDOUT = Path("-")
_LINES = (".jsonl", ".ndjson")  # suffixes of records with an image a line

_MARK = "run"  # what tells the lines of a run from those of another

Record = Callable[[dict[str, Any]], object]


def has_lines(path: Path) -> bool:
    """Whether a record has an image a line, written as it is done."""
    return path.suffix.lower() in _LINES


@contextmanager
def recording_lines(path: Path, mark: str, *, append: bool) -> Iterator[Record]:
    """What writes each image's record as a line, with the run's mark, as soon as it is there.

    Raises:
        FileError: the file cannot be written.
    """
    with writing(path), path.open("a" if append else "w", encoding="utf-8") as lines:

        def write(record: dict[str, Any]) -> None:
            write_line(lines, _finite({**record, _MARK: mark}))

        yield write


def done_lines(path: Path, mark: str) -> Counter[str]:
    """How often each image is in a record of lines, empty where there is none.

    Images that failed are taken out, to be tried again, and so is a last line that was not written
    to its end.

    Raises:
        FileError: the lines are of another file or of other options, or are none of a run.
    """
    done: Counter[str] = Counter()
    if not path.exists():
        return done
    with reading(path):
        lines = path.open(encoding="utf-8")
    with lines, replacing(path) as scratch, scratch.open("w", encoding="utf-8") as kept:
        for line in lines:
            if not line.endswith("\n"):
                continue
            record = parse_line(path, line, "a run")
            if record.get(_MARK) != mark:
                raise FileError(
                    f"{path} is of another run: of another file, or with other classes or sizes; "
                    "give another name, or delete it"
                )
            if "error" not in record:
                done[record["image"]] += 1
                kept.write(line)
    return done


@contextmanager
def recording(path: Path, file: Path, card: Card) -> Iterator[Record]:
    """What writes the records of all images as one, if the run comes to its end.

    Raises:
        FileError: the file cannot be written.
    """
    records: list[dict[str, Any]] = []
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
