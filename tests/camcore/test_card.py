"""Cards come back as they were written; seals break at the smallest change."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore.card import (
    KEY,
    SCHEMA,
    Card,
    ImageSpec,
    assume_image,
    default_probabilities,
    onnx_is_sealed,
    read_extra,
    seal_onnx,
    seal_zip,
    zip_is_sealed,
)
from camcore.errors import FileError

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

sizes = st.none() | st.integers(1, 4096)
numbers = st.floats(allow_nan=False, allow_infinity=False)
cards = st.builds(
    Card,
    image=st.builds(
        ImageSpec,
        height=sizes,
        width=sizes,
        mean=st.tuples(numbers, numbers, numbers),
        std=st.tuples(numbers, numbers, numbers),
        crop=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
    ),
    outputs=st.lists(st.text(), max_size=4).map(tuple),
    explained=st.none() | st.text(),
    class_names=st.none() | st.lists(st.text(), max_size=4).map(tuple),
    options=st.dictionaries(st.text(), numbers | st.booleans()),
    notes=st.lists(st.text(), max_size=2).map(tuple),
    boxes=st.none() | st.integers(1, 99),
    schema=st.just(SCHEMA),
)


@given(card=cards)
def test_a_card_comes_back_as_it_was(card: Card) -> None:
    assert Card.from_json(card.to_json()) == card


def test_a_newer_schema_is_refused() -> None:
    fields = json.loads(CARD.to_json())
    fields["schema"] = SCHEMA + 1
    with pytest.raises(FileError, match=f"schema {SCHEMA + 1}.*up to {SCHEMA}; install a newer"):
        Card.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"card"', "{}", '{"schema": "one"}'])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(FileError, match="card cannot be read"):
        Card.from_json(text)


@pytest.mark.parametrize("name", json.loads(CARD.to_json()))
def test_a_card_with_an_unknown_field_or_without_a_needed_one_is_refused(name: str) -> None:
    fields = json.loads(CARD.to_json())
    with pytest.raises(FileError, match="card cannot be read"):
        Card.from_json(json.dumps({**fields, f"{name}_": 1}))
    if name in ("method", "layer", "image", "num_classes", "outputs", "schema"):
        del fields[name]
        with pytest.raises(FileError, match="card cannot be read"):
            Card.from_json(json.dumps(fields))


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
        assert Card.from_json(read_extra(entries, KEY) or "") == CARD
        assert read_extra(entries, "other") is None


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


def test_a_models_own_outputs_may_be_called_boxes() -> None:
    own = ("boxes", "box_scores")
    explanation = ("classes", "saliency_map", "more", "boxes_too")
    assert replace(CARD, outputs=(*own, *explanation)).own_outputs == own
    assert replace(CARD, outputs=own).own_outputs == own


def test_what_is_assumed_of_images() -> None:
    nothing = assume_image((224, 224))
    assert nothing == ImageSpec(
        None,
        None,
        resize=224,
        crop=(224, 224),
        assumed=("mean", "std", "resize", "crop", "colour"),
    )
    assert assume_image((96, 128)).resize == (96, 128)
    assert assume_image((96, 128)).crop is None
    grey = assume_image((28, 28), 1, crop=(28, 28))
    assert (grey.mean, grey.std, grey.resize) == ((0.0,), (1.0,), None)
    assert grey.assumed == ("mean", "std")


def test_card_of_an_older_file_still_loads() -> None:
    """Without the fields that came later."""
    card = Card("gradcam", "layer4", assume_image((96, 128)), 2, ("scores",), probabilities="none")
    assert Card.from_json(card.to_json()) == card
    fields = json.loads(card.to_json())
    del fields["probabilities"], fields["image"]["assumed"]
    old = Card.from_json(json.dumps(fields))
    assert (old.probabilities, old.image.assumed) == (None, ())


@pytest.mark.parametrize(
    ("target", "classes", "expected"),
    [
        ("logit", 2, "softmax"),
        ("logit", 1, "sigmoid"),
        ("binary", 2, "sigmoid"),
        ("finer", 5, "softmax"),
        ("value", 1, "none"),
        ("custom loss", 5, "none"),
    ],
)
def test_probabilities_follow_from_the_target(target: str, classes: int, expected: str) -> None:
    assert default_probabilities(target, classes) == expected
