"""The seal: the SHA-256 of a file at its end, behind the card that it carries.

An exported file carries its card as JSON under the metadata key `camcore`, and ends with the seal
of everything before it. A file without a card was not written by camcore; a file whose seal does
not fit was truncated or changed afterwards. The seal guards against accidents, not against
somebody who forges a new one.
"""

import hashlib
import zipfile
from collections.abc import Callable
from io import SEEK_END, BufferedIOBase, BytesIO

from camcore.card import KEY, Card

SEAL_KEY = "camcore.sha256"


def onnx_ending(content: bytes, card: Card) -> bytes:
    """What to append to a serialised `ModelProto` to give it the card, sealed.

    Only the ending, for the model before it may weigh half a gigabyte and stands on disk already.
    """
    entry = _field(1, KEY.encode()) + _field(2, card.to_json().encode())
    metadata = _field(_METADATA_PROPS, entry)
    return metadata + _onnx_seal(_sha256(content, metadata))


def attach_zip(content: bytes, card: Card) -> bytes:
    """A TorchScript or .pt2 archive with the card as its extra file `camcore`, sealed."""
    archive = BytesIO(content)
    with zipfile.ZipFile(archive, "a") as entries:
        top = entries.namelist()[0].split("/")[0]
        entries.writestr(f"{top}/extra/{KEY}", card.to_json())
    return seal_zip(archive.getvalue())


def seal_onnx(content: bytes) -> bytes:
    """Serialised `ModelProto` bytes with the seal behind them.

    Protobuf allows fields of a message to be appended in any order, so the seal is one more
    `metadata_props` entry whose bytes come last: reading it back needs no protobuf library.
    """
    return content + _onnx_seal(_sha256(content))


def onnx_is_sealed(file: BufferedIOBase) -> bool:
    """Whether an ONNX file ends with the seal that fits it."""
    return _is_sealed(file, _onnx_seal)


def read_seal(file: BufferedIOBase) -> str:
    """The digest at the end of a sealed file of whatever format."""
    file.seek(-len(_sha256()), SEEK_END)
    return file.read().decode()


def _onnx_seal(digest: str) -> bytes:
    return _field(_METADATA_PROPS, _field(1, SEAL_KEY.encode()) + _field(2, digest.encode()))


def _is_sealed(file: BufferedIOBase, seal: Callable[[str], bytes]) -> bool:
    """Whether a file ends with the seal of the digest of all before it."""
    left = file.seek(0, SEEK_END) - len(seal(_sha256()))
    if left <= 0:
        return False
    file.seek(0)
    digest = hashlib.sha256()
    # In pieces that stay in the processor's cache: reading the file whole takes half as long again.
    piece = memoryview(bytearray(_PIECE))
    while left > 0:
        read = file.readinto(piece[: min(left, _PIECE)])
        if not read:  # the file was cut while it was read
            return False
        digest.update(piece[:read])
        left -= read
    return file.read() == seal(digest.hexdigest())


_PIECE = 1 << 18


def _sha256(*content: bytes) -> str:
    """The digest of all parts in a row, without a copy of them."""
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    return digest.hexdigest()


_METADATA_PROPS = 14  # the field of ModelProto; an entry holds a key, field 1, and a value, field 2


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field, https://protobuf.dev/programming-guides/encoding/."""
    length = len(payload)
    size = bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + payload


def seal_zip(content: bytes) -> bytes:
    """Bytes of a TorchScript or .pt2 archive with the seal behind them.

    A zip archive ends with a comment and, just before it, the comment's length in two bytes. torch
    writes no comment and ignores one, so the seal can cover every byte before itself, headers and
    directory included.
    """
    size = len(_zip_seal(_sha256()))
    unsealed = content[:-2] + size.to_bytes(2, "little")
    return unsealed + _zip_seal(_sha256(unsealed))


def zip_is_sealed(file: BufferedIOBase) -> bool:
    """Whether an archive ends with the seal that fits it."""
    return _is_sealed(file, _zip_seal)


def _zip_seal(digest: str) -> bytes:
    return f"{SEAL_KEY}={digest}".encode()
