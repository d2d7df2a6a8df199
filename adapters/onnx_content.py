"""ONNX content: what an `.onnx` file holds, read from its protobuf fields without onnx.

Their numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from camcore.adapters.protobuf import Part, fields, messages, text
from camcore.card import KEY
from camcore.errors import FileError

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

# Of each message the fields that hold others, down to tensors.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
# Of a tensor: external_data, and data_location where it says EXTERNAL.
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1


@dataclass(frozen=True)
class Port:
    """An input or output of an ONNX graph; a size is a number, or a name where it is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    optional: bool = False


def find_card(file: BufferedIOBase) -> Part | None:
    """Where the card's text lies in the metadata, None where there is none.

    Raises:
        ValueError: the file is no ONNX model, or was cut short.
    """
    for entry in messages(Part.whole(file), 14):  # ModelProto.metadata_props
        (name, *_) = messages(entry, 1) or [entry]
        if len(name) == len(KEY) and bytes(name) == KEY.encode():
            return next(iter(messages(entry, 2)), None)
    return None


def onnx_ports(file: BufferedIOBase) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and the outputs of an ONNX file's graph; an input with an initializer is
    optional.

    Raises:
        FileError: the graph is not laid out as ONNX says.
    """
    try:
        (graph,) = messages(Part.whole(file), 7)  # ModelProto.graph
        initializers = {text(tensor, 8) for tensor in messages(graph, 5)}
        inputs, outputs = (
            tuple(_port(value, initializers) for value in messages(graph, number))
            for number in (11, 12)
        )
    except ValueError as error:
        raise FileError(
            f"the inputs and outputs of the graph cannot be read ({error}); export the model again"
        ) from error
    return inputs, outputs


def check_self_contained(path: Path, file: BufferedIOBase) -> None:
    """Raises a `FileError` where a tensor lies in another file, which no seal covers."""
    pending = [("model", Part.whole(file))]
    try:
        while pending:
            kind, message = pending.pop()
            for number, value in fields(message):
                if kind == "tensor" and _is_elsewhere(number, value):
                    raise FileError(
                        f"{path} keeps a tensor in another file, which its seal does not cover; "
                        "camcore writes weights into the file: export the model again"
                    )
                inside = _INSIDE[kind].get(number)
                if inside is not None and isinstance(value, Part):
                    pending.append((inside, value))
    except ValueError as error:
        raise FileError(
            f"the graph of {path} cannot be read ({error}); export the model again"
        ) from error


def _is_elsewhere(number: int, value: int | Part) -> bool:
    return number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == _EXTERNAL)


def _port(value: Part, initializers: set[str]) -> Port:
    """A `ValueInfoProto`: name, then type.tensor_type with its element type and shape."""
    name = text(value, 1)
    (kind,) = messages(value, 2)
    (tensor,) = messages(kind, 1)
    (element,) = [field for number, field in fields(tensor) if number == 1]
    sizes = [size for shape in messages(tensor, 2) for size in messages(shape, 1)]
    return Port(
        name,
        _ONNX_TYPES.get(element, f"type {element}") if isinstance(element, int) else "unknown",
        tuple(_size(size) for size in sizes),
        name in initializers,
    )


def _size(dimension: Part) -> int | str:
    """A `TensorShapeProto.Dimension`: dim_value, dim_param, or nothing."""
    for _, field in fields(dimension):
        return field if isinstance(field, int) else bytes(field).decode()
    return "?"
