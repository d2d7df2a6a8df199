"""Int8: the prediction's convolutions and products in eight bits, by onnxruntime's quantizer."""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from camcore.adapters.convert.names import name_operators

_OPERATORS = ("Conv", "MatMul", "Gemm")


def to_int8(
    model: onnx.ModelProto,
    samples: Iterable[Mapping[str, NDArray[Any]]],
    outputs: Sequence[str],
) -> tuple[onnx.ModelProto, int]:
    """The model with what leads to those outputs in int8, and how many operators that are.

    What makes maps of it stays in float32: it costs little, and maps are differences of values
    that eight bits would make equal. The range of each value is measured on the samples.
    """
    name_operators(model.graph)
    chosen = _products_before(model.graph, outputs)
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        quantized = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            quantized,
            _Reader(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            # Not the largest value: one outlier would take the levels of all others.
            calibrate_method=CalibrationMethod.Percentile,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(quantized), len(chosen)


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantizer prints what it does, and advises to run a step that changes nothing here."""
    root = logging.getLogger()
    root.addFilter(_is_no_advice)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        root.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, samples: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        self._left: Iterator[Mapping[str, NDArray[Any]]] = iter(samples)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        sample = next(self._left, None)
        return None if sample is None else dict(sample)


def _products_before(graph: onnx.GraphProto, outputs: Sequence[str]) -> list[str]:
    """The names of the convolutions and products with weights that lead to the outputs."""
    weights = {tensor.name for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    found: dict[str, None] = {}
    pending, seen = list(outputs), set[str]()
    while pending:
        node = made_by.get(pending.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        pending += node.input
        if node.op_type in _OPERATORS and weights & {*node.input}:
            found[node.name] = None
    return list(found)
