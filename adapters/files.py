"""Files: exported ones with their cards, and what is told where a file cannot be read or written.

Neither torch, onnx nor onnxruntime is imported. A file is never in memory as a whole, and its card
is read once its seal fits.
"""

import os
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from camcore.adapters.archives import BROKEN_ARCHIVE, find_extra, read_entry
from camcore.adapters.onnx_content import find_card
from camcore.card import KEY, Card
from camcore.errors import FileError
from camcore.seal import onnx_is_sealed, read_seal, zip_is_sealed

SUFFIXES = (".onnx", ".pt", ".pt2")

# Class names are the most of it: 21 thousand of ImageNet's take one megabyte.
_LARGEST_CARD = 2**24


def read_card(path: str | Path) -> Card:
    """The card of an exported file, whatever its format.

    Raises:
        FileError: the file is missing, damaged, was changed, or was not written by camcore.

    >>> read_card("resnet18.onnx").method  # doctest: +SKIP
    'gradcam'
    """
    with opened(path) as (_, card):
        return card


def read_sealed_card(path: Path) -> tuple[Card, str]:
    """The card of an exported file and its seal; see `read_card`."""
    with opened(path) as (file, card):
        return card, read_seal(file)


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[BufferedIOBase, Card]]:
    """An exported file, checked against its seal, and its card.

    Raises:
        FileError: the file is missing, damaged, was changed, or was not written by camcore.
    """
    path = Path(path)
    check_suffix(path)
    with reading(path):
        _check_kind(path)
        opened_file = path.open("rb")
    with opened_file as file:
        with reading(path):
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
    except (OSError, ValueError):
        return 0


def _state(path: Path) -> tuple[int, ...] | None:
    """What tells a file from one that took its place; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
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
    with reading(path):
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
def reading(path: Path) -> Iterator[None]:
    """Turns the errors of reading a file into a `FileError` that says what to do."""
    try:
        yield
    except FileError:
        raise
    except IsADirectoryError as error:
        raise FileError(f"{path} is a folder; give a file") from error
    except FileNotFoundError as error:
        raise missing(path) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        raise FileError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the errors of writing a file into a `FileError`; one of another file passes."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file beside `path`, which takes its place if all goes well and vanishes if not."""
    scratch = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        with writing(path):
            yield scratch
            scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _check_kind(path: Path) -> None:
    """Raises a `FileError` for a device, which may have no end."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFDIR):
        raise FileError(f"{path} is a device or a socket; give a file")


def _onnx_card(path: Path, file: BufferedIOBase) -> str:
    try:
        card = find_card(file)
        if card is None:
            raise _foreign(path)
        if not onnx_is_sealed(file):
            raise _changed(path)
        if len(card) > _LARGEST_CARD:
            raise _too_large(path)
        return bytes(card).decode()
    except ValueError as error:
        raise FileError(
            f"{path} is not an ONNX file, or was truncated ({error}); copy or export it again"
        ) from error


def _zip_card(path: Path, file: BufferedIOBase) -> str:
    try:
        with zipfile.ZipFile(cast(BinaryIO, file)) as entries:
            card = find_extra(entries, KEY)
            if card is None:
                raise _foreign(path)
            if not zip_is_sealed(file):
                raise _changed(path)
            content = read_entry(entries, card, _LARGEST_CARD)
            text = None if content is None else content.decode()
    except BROKEN_ARCHIVE as error:
        raise FileError(
            f"{path} is not a {path.suffix} archive, or was truncated ({error}); copy or export "
            "it again"
        ) from error
    if text is None:
        raise _too_large(path)
    return text


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


def _too_large(path: Path) -> FileError:
    return FileError(
        f"{path} has a card of more than {_LARGEST_CARD} bytes, which camcore writes "
        "for no model; export it again"
    )
