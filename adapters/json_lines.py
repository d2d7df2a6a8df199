"""JSON lines: the records of what takes long, an object a line, each written as it is done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from camcore.errors import FileError


def parse_line(path: Path, line: str, kind: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
        FileError: it holds none, so that the file is no record of `kind` ("a run").
    """
    try:
        value = json.loads(line)
    except ValueError as error:
        raise FileError(f"{path} is no record of {kind}: {error}; give another name") from error
    if not isinstance(value, dict):
        raise FileError(f"{path} is no record of {kind}; give another name")
    return value


def write_line(lines: TextIO, value: Mapping[str, Any]) -> None:
    """Write an object as a line, at once; it holds no NaN and no infinity."""
    lines.write(json.dumps(value, allow_nan=False) + "\n")
    lines.flush()
