"""Fields of protobuf messages, and what is no message."""

import io

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore.adapters.protobuf import Part, fields, messages, text


def part(content: bytes) -> Part:
    return Part.whole(io.BytesIO(content))


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=300), st.binary(max_size=300))
def test_fields_are_those_that_protobuf_writes(number: int, name: str, content: bytes) -> None:
    tensor = onnx.TensorProto(dims=[number, 1], name=name, raw_data=content, data_type=1)
    message = part(tensor.SerializeToString())
    assert text(message, 8) == name
    (raw,) = messages(message, 9) or [part(b"")]
    assert bytes(raw) == content
    assert [value for key, value in fields(message) if key == 1] == [number % 2**64, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x08", "ends in the middle of a number"),
        (b"\x08" + b"\xff" * 9, "ends in the middle of a number"),
        (b"\x08" + b"\xff" * 10**6, "a number of more than 64 bits"),
        (b"\x0a\x05abc", "ends in the middle of a field"),
        (b"\x0a" + b"\xff" * 8 + b"\x7f", "ends in the middle of a field"),
        (b"\x0d\x00", "ends in the middle of a field"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_what_is_no_message(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(fields(part(content)))
