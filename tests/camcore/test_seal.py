"""Seals break at the smallest change."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import onnx
import pytest

from camcore.card import (
    KEY,
    Card,
    ImageSpec,
)
from camcore.seal import onnx_is_sealed, read_seal, seal_onnx, seal_zip, zip_is_sealed

CARD = Card("gradcam", "layer4", ImageSpec(224, None), 10, ("scores", "classes", "saliency_map"))


def onnx_file() -> bytes:
    """A model of one node, with a card."""
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]))
    onnx.helper.set_model_props(model, {KEY: CARD.to_json()})
    return model.SerializeToString()


def zip_file() -> bytes:
    """An archive laid out as torch lays it out."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as entries:
        entries.writestr("model/data.pkl", b"weights")
        entries.writestr(f"model/extra/{KEY}", CARD.to_json())
    return content.getvalue()


def in_a_file(is_sealed: Callable[[io.BytesIO], bool]) -> Callable[[bytes], bool]:
    return lambda content: is_sealed(io.BytesIO(content))


FORMATS = [
    pytest.param(seal_onnx, in_a_file(onnx_is_sealed), onnx_file(), id="onnx"),
    pytest.param(seal_zip, in_a_file(zip_is_sealed), zip_file(), id="zip"),
]


every_format = pytest.mark.parametrize(("seal", "is_sealed", "content"), FORMATS)


Seal = Callable[[bytes], bytes]


IsSealed = Callable[[bytes], bool]


@every_format
def test_sealing_keeps_what_was_there(seal: Seal, is_sealed: IsSealed, content: bytes) -> None:
    assert not is_sealed(content)
    assert is_sealed(seal(content))


def test_a_sealed_onnx_file_is_a_valid_model_with_its_card() -> None:
    model = onnx.load_model_from_string(seal_onnx(onnx_file()))
    onnx.checker.check_model(model)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert Card.from_json(properties[KEY]) == CARD


def test_a_sealed_archive_is_a_valid_zip_with_its_card() -> None:
    with zipfile.ZipFile(io.BytesIO(seal_zip(zip_file()))) as entries:
        assert entries.testzip() is None
        assert entries.read("model/data.pkl") == b"weights"
        assert Card.from_json(entries.read(f"model/extra/{KEY}").decode()) == CARD


@every_format
def test_every_truncation_breaks_the_seal(seal: Seal, is_sealed: IsSealed, content: bytes) -> None:
    sealed = seal(content)
    assert not any(is_sealed(sealed[:length]) for length in range(len(sealed)))


@every_format
def test_every_flipped_bit_breaks_the_seal(seal: Seal, is_sealed: IsSealed, content: bytes) -> None:
    sealed = seal(content)
    unnoticed = []
    for position in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[position] ^= 1 << bit
            if is_sealed(bytes(flipped)):
                unnoticed.append((position, bit))
    assert unnoticed == []


@every_format
def test_bytes_behind_the_seal_break_it(seal: Seal, is_sealed: IsSealed, content: bytes) -> None:
    assert not is_sealed(seal(content) + b"\0")


@every_format
@pytest.mark.parametrize("foreign", [b"", b"PK", b"\0" * 500, b"GIF89a" * 50])
def test_a_foreign_file_is_not_sealed(
    seal: Seal, is_sealed: IsSealed, content: bytes, foreign: bytes
) -> None:
    assert not is_sealed(foreign)


class Shrinking(io.BytesIO):
    """A file that is cut short while it is read."""

    def readinto(self, buffer: Any, /) -> int:
        self.truncate(10)
        return super().readinto(buffer)


@pytest.mark.parametrize("is_sealed", [onnx_is_sealed, zip_is_sealed])
def test_a_file_that_shrinks_is_not_sealed(is_sealed: Callable[[io.BytesIO], bool]) -> None:
    seal = seal_onnx if is_sealed is onnx_is_sealed else seal_zip
    content = seal(zip_file())
    assert is_sealed(io.BytesIO(content))
    assert not is_sealed(Shrinking(content))


@every_format
@pytest.mark.parametrize("size", [2**18 - 1, 2**18, 2**18 + 1, 2**19])
def test_seals_of_files_larger_than_a_piece(
    seal: Seal, is_sealed: IsSealed, content: bytes, size: int
) -> None:
    """Pieces are read one by one: where one ends, nothing is lost."""
    sealed = seal(bytes(size - len(content)) + content)
    assert is_sealed(sealed)
    for place in (0, 2**18 - 2, len(sealed) - 200):
        assert not is_sealed(sealed[:place] + b"x" + sealed[place + 1 :])


@every_format
def test_the_digest_is_read_from_the_end(seal: Seal, is_sealed: IsSealed, content: bytes) -> None:
    sealed = seal(content)
    digest = read_seal(io.BytesIO(sealed))
    assert len(digest) == 64
    assert sealed.endswith(digest.encode())
