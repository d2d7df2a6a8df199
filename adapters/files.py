"""Reading exported files: their card and, for `.onnx`, their inputs and outputs; and what is told
where a file cannot be read or written.

Neither torch, onnx nor onnxruntime is imported: an archive is opened with `zipfile`, and of an ONNX
file the outer protobuf fields are walked, which is a few lines
(https://protobuf.dev/programming-guides/encoding/). A file is never in memory as a whole.
"""

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_END, BufferedIOBase, BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from camcore.card import KEY, Card, onnx_is_sealed, read_extra, zip_is_sealed
from camcore.errors import FileError

SUFFIXES = (".onnx", ".pt", ".pt2")

# What a damaged archive makes `zipfile` raise, beside its own exception.
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)

# onnx.TensorProto.DataType
_ONNX_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}


@dataclass(frozen=True)
class Port:
    """An input or output of an ONNX graph; a size is a number, or a name where it is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    optional: bool = False


def read_card(path: str | Path) -> Card:
    """The card of an exported file, whatever its format.

    Raises:
        FileError: the file is missing, damaged, was changed, or was not written by camcore.

    >>> read_card("resnet18.onnx").method  # doctest: +SKIP
    'gradcam'
    """
    with opened(path) as (_, card):
        return card


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[BufferedIOBase, Card]]:
    """An exported file, checked against its seal, and its card.

    Raises:
        FileError: the file is missing, damaged, was changed, or was not written by camcore.
    """
    path = Path(path)
    check_suffix(path)
    with _read_errors(path):
        opened_file = path.open("rb")
    with opened_file as file:
        with _read_errors(path):
            # A pipe knows no way back.
            seekable = file if file.seekable() else BytesIO(file.read())
            text = (_onnx_card if path.suffix.lower() == ".onnx" else _zip_card)(path, seekable)
        try:
            card = Card.from_json(text)
        except FileError as error:
            raise FileError(f"{path}: {error}") from error
        yield seekable, card


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Holds that a file stays the same while it is read more than once.

    Raises:
        FileError: at the end it is another file than it was at the start.
    """
    before = _state(path)
    yield
    if _state(path) != before:
        raise FileError(f"{path} was changed while it was loaded; load it again")


def check_reopenable(path: Path) -> None:
    """Raises a `FileError` where a runtime cannot open, by its name, what was read before."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise FileError(f"{path}: the runtimes open names in UTF-8 alone; rename it") from error
    if stat.S_ISFIFO(_mode(path)):
        raise FileError(f"{path} is a pipe, which can be read but once; write it to a file")


def _mode(path: Path) -> int:
    """The file's type and permissions, 0 where there is none: reading it will tell why."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _state(path: Path) -> tuple[int, ...] | None:
    """What tells a file from one that took its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_suffix(path: Path) -> None:
    """Raises a `FileError` where the suffix names none of the formats."""
    if path.suffix.lower() not in SUFFIXES:
        raise FileError(
            f"{path} has the suffix {path.suffix!r}; expected {', '.join(SUFFIXES[:-1])} or "
            f"{SUFFIXES[-1]}"
        )


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        FileError: there is no such file, it is a folder, or it may not be read.
    """
    with _read_errors(path):
        return path.read_bytes()


def missing(path: Path) -> FileError:
    """The error for a file that is not there, which says so of a URL."""
    url = as_url(str(path))
    if url is None:
        return FileError(f"{path} does not exist")
    return FileError(f"{url} is a URL, and camcore reads files alone; download it first")


def as_url(text: str) -> str | None:
    """A URL as it was written, None where it is none; as a path, one has lost a slash.

    >>> as_url("https:/a.org/cat.jpg"), as_url("C:/cat.jpg")
    ('https://a.org/cat.jpg', None)
    """
    # One letter is a drive.
    url = re.fullmatch(r"([a-zA-Z][a-zA-Z0-9+.-]+):[/\\]+(.*)", text)
    return None if url is None else f"{url[1]}://{url[2]}"


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Turns the errors of reading a file into a `FileError` that says what to do."""
    try:
        yield
    except FileError:
        raise
    except IsADirectoryError as error:
        raise FileError(f"{path} is a folder; give a file") from error
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the errors of writing a file into a `FileError`; one of another file passes."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error


def onnx_ports(file: BufferedIOBase) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and the outputs of an ONNX file's graph; an input with an initializer is
    optional.
    """
    (graph,) = _messages(_Part.whole(file), 7)  # ModelProto.graph
    initializers = {_text(tensor, 8) for tensor in _messages(graph, 5)}
    inputs, outputs = (
        tuple(_port(value, initializers) for value in _messages(graph, number))
        for number in (11, 12)
    )
    return inputs, outputs


def _onnx_card(path: Path, file: BufferedIOBase) -> str:
    try:
        entries = [(_text(entry, 1), entry) for entry in _messages(_Part.whole(file), 14)]
        cards = [_text(entry, 2) for name, entry in entries if name == KEY]
    except ValueError as error:
        raise FileError(
            f"{path} is not an ONNX file, or was truncated ({error}); copy or export it again"
        ) from error
    if not cards:
        raise _foreign(path)
    if not onnx_is_sealed(file):
        raise _changed(path)
    return cards[0]


def _zip_card(path: Path, file: BufferedIOBase) -> str:
    try:
        with zipfile.ZipFile(cast(BinaryIO, file)) as entries:
            card = read_extra(entries, KEY)
        sealed = zip_is_sealed(file)
    except _BROKEN_ARCHIVE as error:
        raise FileError(
            f"{path} is not a {path.suffix} archive, or was truncated ({error}); copy or export "
            "it again"
        ) from error
    if card is None:
        raise _foreign(path)
    if not sealed:
        raise _changed(path)
    return card


def _foreign(path: Path) -> FileError:
    return FileError(
        f"{path} was not written by camcore: it carries no card; write it with "
        "camcore.export.save or `camcore export`"
    )


def _changed(path: Path) -> FileError:
    return FileError(
        f"{path} was truncated or changed after camcore wrote it: its seal does not fit; copy or "
        "export it again"
    )


@dataclass(frozen=True)
class _Part:
    """The bytes of a file from `start` to `stop`, read when they are looked at."""

    file: BufferedIOBase
    start: int
    stop: int

    @classmethod
    def whole(cls, file: BufferedIOBase) -> "_Part":
        return cls(file, 0, file.seek(0, SEEK_END))

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> "_Part":
        return _Part(self.file, self.start + start, self.start + stop)

    def __bytes__(self) -> bytes:
        self.file.seek(self.start)
        return self.file.read(len(self))


def _port(value: _Part, initializers: set[str]) -> Port:
    """A `ValueInfoProto`: name, then type.tensor_type with its element type and shape."""
    name = _text(value, 1)
    (kind,) = _messages(value, 2)
    (tensor,) = _messages(kind, 1)
    (element,) = [field for number, field in _fields(tensor) if number == 1]
    assert isinstance(element, int)
    sizes = [size for shape in _messages(tensor, 2) for size in _messages(shape, 1)]
    return Port(
        name,
        _ONNX_TYPES.get(element, f"type {element}"),
        tuple(_size(size) for size in sizes),
        name in initializers,
    )


def _size(dimension: _Part) -> int | str:
    """A `TensorShapeProto.Dimension`: dim_value, dim_param, or nothing."""
    for _, field in _fields(dimension):
        return field if isinstance(field, int) else bytes(field).decode()
    return "?"


def _messages(message: _Part, number: int) -> list[_Part]:
    """The length-delimited fields of that number."""
    return [field for key, field in _fields(message) if key == number and isinstance(field, _Part)]


def _text(message: _Part, number: int) -> str:
    """The string field of that number, empty where it is absent."""
    return "".join(bytes(field).decode() for field in _messages(message, number)[:1])


def _fields(message: _Part) -> Iterator[tuple[int, int | _Part]]:
    """Field numbers and values of a protobuf message, in file order."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"no protobuf field has wire type {wire}")
        if at + size > len(message):
            raise ValueError("it ends in the middle of a field")
        yield number, message.part(at, at + size)
        at += size


def _varint(message: _Part, at: int) -> tuple[int, int]:
    """The number that starts at a position, seven bits a byte, and the position behind it."""
    value = shift = 0
    while at < len(message):
        (byte,) = bytes(message.part(at, at + 1))
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("it ends in the middle of a number")
