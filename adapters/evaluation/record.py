"""The record of an evaluation: a line of JSON for each image, written as it is done, so that one
that was interrupted goes on where it was.

The first line says what the others are of.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

from camcore.adapters.files import writing
from camcore.adapters.json_lines import parse_line, write_line
from camcore.errors import FileError

_KIND = "an evaluation"


def heading(file: Path, annotations: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation is of; of two that differ in it, one cannot go on with the other's."""
    with file.open("rb") as content:
        digest = file_digest(content, "sha256").hexdigest()
    stated = None if annotations is None else annotations.name
    return {"file": file.name, "sha256": digest, "annotations": stated, **options}


def done_images(path: Path, head: Mapping[str, Any]) -> set[str]:
    """The images that a record has; it is begun where there is none.

    A last line that was not written to its end is cut off. An image with an error counts as not
    done: it may be readable by now.

    Raises:
        FileError: the record is of another file or other options, or is none.
    """
    with writing(path):
        if not path.exists() or path.stat().st_size == 0:
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")
            return set()
        _cut_off_rest(path)
    with path.open(encoding="utf-8") as lines:
        first = parse_line(path, next(lines, ""), _KIND)
        if first != head:
            keys = [key for key in head if first.get(key) != head[key]]
            raise FileError(
                f"{path} is the record of another evaluation ({', '.join(keys)} differ); give "
                "another name, or delete it"
            )
    return {entry["image"] for entry in entries(path)}


def _cut_off_rest(path: Path) -> None:
    with path.open("rb+") as file:
        end = 0
        for line in file:
            end += len(line) if line.endswith(b"\n") else 0
        file.truncate(end)


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The images of a record, one at a time; those with an error are left out."""
    with path.open(encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            entry = parse_line(path, line, _KIND)
            if "error" not in entry:
                yield entry


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What adds an image to a record, at once.

    Raises:
        FileError: the file cannot be written.
    """
    with writing(path), path.open("a", encoding="utf-8") as lines:

        def write(entry: Mapping[str, Any]) -> None:
            write_line(lines, entry)

        yield write
