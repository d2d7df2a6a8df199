"""A graph of an ONNX file: read, checked for what is not read, put in order, constants folded."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, inliner, numpy_helper

from camcore.adapters.files import missing
from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.operators.table import OPERATORS
from camcore.adapters.sources.onnx.scopes import scopes_of, with_scopes_between
from camcore.adapters.sources.onnx.tidy import fold, needed, without_strides
from camcore.adapters.sources.onnx.values import FLOATING, Value
from camcore.card import KEY
from camcore.errors import ExportError, FileError, InputError

OLDEST = 8
_QUANTISED = re.compile(r"Quantize|QLinear|Integer$|^QGemm|^QAttention")
_HALVES = (10, 16)
_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class Port:
    """An input of a graph: its name, its type in `onnx.TensorProto`, its sizes, None where free."""

    name: str
    kind: int
    sizes: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """The graph of a file: nodes in an order in which they can run, and what they are given.

    `constants` are the weights, and what is computed of constants alone, which needs no node.
    `half` says whether the file computes in half precision. `sha256` is the file's.
    """

    path: Path
    producer: str
    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Value]
    metadata: Mapping[str, str]
    half: bool
    sha256: str


def read_graph(path: Path) -> Graph:
    """The graph of an ONNX file, whatever runs in it.

    Raises:
        FileError: the file is missing, damaged, or its weights beside it are.
        InputError: camcore wrote it, or its opset is older than 8.
        ExportError: it is quantised, or has operators that are not read.
    """
    proto, content = load_proto(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if KEY in metadata:
        raise InputError(
            f"{path} was written by camcore, and explains itself already: run it with `camcore run`"
        )
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    opset = next((each.version for each in proto.opset_import if each.domain in _STANDARD), 0)
    if opset < OLDEST:
        raise InputError(
            f"{path} is of opset {opset}, expected {OLDEST} or newer. "
            "onnx.version_converter.convert_version makes one of the other"
        )
    graph = proto.graph
    _check_operators(path, opset, graph.node)
    constants: dict[str, Value] = {
        tensor.name: _array(tensor, path) for tensor in graph.initializer
    }
    inputs = tuple(_port(value) for value in graph.input if value.name not in constants)
    nodes = in_order([as_node(proto, opset) for proto in graph.node], {*constants}, inputs, path)
    outputs = tuple(value.name for value in graph.output)
    nodes, constants = without_strides(*fold(nodes, constants))
    nodes = with_scopes_between(needed(nodes, outputs))
    floats = {tensor.data_type for tensor in graph.initializer} & set(FLOATING)
    return Graph(
        path=path,
        producer=" ".join(filter(None, [proto.producer_name, proto.producer_version])),
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        nodes=tuple(nodes),
        constants=constants,
        metadata=metadata,
        half=bool(floats & set(_HALVES)),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def load_proto(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """A file's model, with weights that lie in files beside it, and its bytes.

    Raises:
        FileError: as `read_graph`.
    """
    if not path.is_file():
        raise missing(path)
    try:
        content = path.read_bytes()
        proto = onnx.load_model_from_string(content)
        onnx.load_external_data_for_model(proto, str(path.parent))
    except DecodeError as error:
        raise FileError(
            f"{path} is not an ONNX file, or was cut off; copy or export it again"
        ) from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise FileError(
            f"{path} cannot be read with its weights: {str(error).splitlines()[0]}. Weights in "
            "files of their own must lie beside it"
        ) from error
    if not proto.graph.node:
        raise FileError(f"{path} holds no graph; copy or export it again")
    return proto, content


def _check_operators(path: Path, opset: int, nodes: Iterable[onnx.NodeProto]) -> None:
    for proto in nodes:
        told = f"{path}: node {proto.name or proto.output[0]!r} is {proto.op_type}"
        if _QUANTISED.search(proto.op_type):
            raise ExportError(
                f"{told}: the file is quantised, and whole numbers have no gradients. Give the "
                "file in floating point that it was made of"
            )
        if proto.domain not in _STANDARD:
            raise ExportError(
                f"{told} of the domain {proto.domain!r}, which is a runtime's own. Give the file "
                "that was exported, before a runtime optimised it"
            )
        if proto.op_type not in OPERATORS:
            raise ExportError(
                f"{told} (opset {opset}), which camcore does not read. Cut the graph before it, "
                "where the scores are: onnx.utils.extract_model(file, new, inputs, outputs); or "
                "give the model as PyTorch has it"
            )


def as_node(proto: onnx.NodeProto, opset: int) -> Node:
    """A node as it is read."""
    return Node(
        name=proto.name or next(filter(None, proto.output)),
        op=proto.op_type,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={each.name: _attribute(each) for each in proto.attribute},
        opset=opset,
        scopes=scopes_of(proto),
    )


def _attribute(proto: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return _single(numpy_helper.to_array(value))
    return list(value) if proto.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def _array(tensor: onnx.TensorProto, path: Path) -> Value:
    try:
        return _single(numpy_helper.to_array(tensor, str(path.parent)))
    except (ValueError, TypeError, OSError) as error:
        raise FileError(f"{path}: weight {tensor.name!r} cannot be read: {error}") from error


def _single(array: Value) -> Value:
    """In single precision, whatever it was stored in."""
    floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float32) if floating else array


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    sizes = tuple(size.dim_value if size.dim_value > 0 else None for size in kind.shape.dim)
    return Port(value.name, kind.elem_type, sizes)


def in_order(
    nodes: Sequence[Node], known: set[str], inputs: Sequence[Port], path: Path
) -> list[Node]:
    """The nodes in an order in which each has its inputs, as near the file's as can be.

    Raises:
        FileError: some value is made by no node, or in a circle.
    """
    ready = known | {port.name for port in inputs} | {""}
    ordered: list[Node] = []
    pending = list(nodes)
    while pending:
        left = []
        for node in pending:
            if ready.issuperset(node.inputs):
                ordered.append(node)
                ready.update(node.outputs)
            else:
                left.append(node)
        if len(left) == len(pending):
            wanted = sorted(set(left[0].inputs) - ready)
            raise FileError(
                f"{path}: {left[0].describe()} wants {', '.join(wanted)}, which nothing makes"
            )
        pending = left
    return ordered
