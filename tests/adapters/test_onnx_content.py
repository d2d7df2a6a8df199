"""What an ONNX file holds, read without onnx, beside what onnx says."""

import io
from pathlib import Path

import onnx
import pytest

from camcore.adapters.files import opened
from camcore.adapters.onnx_content import Port, find_card, onnx_ports
from camcore.errors import FileError
from tests.adapters.toy import CARD, onnx_content


def test_onnx_ports(toy_folder: Path) -> None:
    with opened(toy_folder / "toy.onnx") as (file, _):
        inputs, outputs = onnx_ports(file)
    assert inputs == (
        Port("image", "float32", ("B", 3, "H", "W")),
        Port("class_ids", "int64", ("I", "K"), optional=True),
    )
    assert outputs == (
        Port("scores", "float32", ("B", 4)),
        Port("classes", "int64", ("B", "K")),
        Port("saliency_map", "float32", ("B", "K", "H", "W")),
    )


def test_the_card_is_found_where_it_lies() -> None:
    card = find_card(io.BytesIO(onnx_content()))
    assert card is not None
    assert bytes(card).decode() == CARD.to_json()
    assert find_card(io.BytesIO(onnx_content(card=None))) is None


def test_graphs_that_are_not_laid_out_as_they_should_be() -> None:
    model = onnx.load_from_string(onnx_content())
    twice = onnx.load_from_string(onnx_content())
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    for content in (
        model.SerializeToString(),
        onnx_content() + b"\x3a\x00" * 2,  # two graphs more
        twice.SerializeToString().replace(b"saliency_map", b"saliency_ma\xc2"),
        b"",
    ):
        with pytest.raises(FileError, match="inputs and outputs of the graph cannot be read"):
            onnx_ports(io.BytesIO(content))
