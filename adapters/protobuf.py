"""Protobuf: the fields of a message in a file, without a library and without reading it whole.

What a field is: https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import SEEK_END, BufferedIOBase

_LONGEST_NUMBER = 10  # bytes: 64 bits, seven each


@dataclass(frozen=True)
class Part:
    """The bytes of a file from `start` to `stop`, read when they are looked at."""

    file: BufferedIOBase
    start: int
    stop: int

    @classmethod
    def whole(cls, file: BufferedIOBase) -> "Part":
        return cls(file, 0, file.seek(0, SEEK_END))

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> "Part":
        return Part(self.file, self.start + start, self.start + stop)

    def __bytes__(self) -> bytes:
        self.file.seek(self.start)
        return self.file.read(len(self))


def fields(message: Part) -> Iterator[tuple[int, int | Part]]:
    """Field numbers and values of a message, in file order.

    Raises:
        ValueError: it is no message, or was cut short.
    """
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _number(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _number(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"no protobuf field has wire type {wire}")
        if at + size > len(message):
            raise ValueError("it ends in the middle of a field")
        yield number, message.part(at, at + size)
        at += size


def messages(message: Part, number: int) -> list[Part]:
    """The length-delimited fields of that number."""
    return [field for key, field in fields(message) if key == number and isinstance(field, Part)]


def text(message: Part, number: int) -> str:
    """The string field of that number, empty where it is absent."""
    return "".join(bytes(field).decode() for field in messages(message, number)[:1])


def _number(message: Part, at: int) -> tuple[int, int]:
    """The number that starts at a position, seven bits a byte, and the position behind it."""
    value = 0
    read = bytes(message.part(at, min(at + _LONGEST_NUMBER, len(message))))
    for count, byte in enumerate(read):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, at + count + 1
    if len(read) == _LONGEST_NUMBER:
        raise ValueError("it holds a number of more than 64 bits")
    raise ValueError("it ends in the middle of a number")
