"""Half precision: weights and values as float16, all but those whose range leaves it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.transformers.float16 import convert_float_to_float16

from camcore.adapters.convert.names import is_own, name_operators

# Where the largest value of a tensor lies, float16 keeps it: half the largest number, for other
# images have larger values; and so far above the smallest, 2**-24, that what rounding loses is less
# than a ten-thousandth of it.
_LARGEST, _SMALLEST = 2.0**15, 2.0**-10

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def to_half(
    model: onnx.ModelProto, samples: Iterable[Mapping[str, NDArray[Any]]]
) -> tuple[onnx.ModelProto, int]:
    """The model in float16, its inputs and outputs as they were, and how many of its operators
    stay in float32: those that, run on the samples, read or give values that float16 does not hold.

    Gradients are among them, often by far too small.
    """
    model = onnx.shape_inference.infer_shapes(model)
    name_operators(model.graph)
    outside = _outside(_ranges(model, samples)) | _weights_outside(model.graph)
    kept = [node.name for node in model.graph.node if outside & {*node.input, *node.output} - {""}]
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    _join_casts(half.graph)
    return half, len(kept)


def _ranges(
    model: onnx.ModelProto, samples: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[str, float]:
    """The largest magnitude of each float32 value of the graph, over all samples."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    ports = {port.name for port in [*model.graph.input, *model.graph.output]}
    made = {name for node in model.graph.node for name in node.output}
    inner = [
        value.name
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == _FLOAT and value.name in made - ports
    ]
    for name in inner:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, _FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    largest = dict.fromkeys(inner, 0.0)
    for sample in samples:
        for name, value in zip(inner, session.run(inner, dict(sample)), strict=True):
            if value.size:
                largest[name] = max(largest[name], float(np.abs(value).max()))
    return largest


def _outside(largest: Mapping[str, float]) -> set[str]:
    """The values that float16 does not hold; of zeros it does."""
    return {name for name, value in largest.items() if value and not _SMALLEST <= value <= _LARGEST}


def _weights_outside(graph: onnx.GraphProto) -> set[str]:
    """The weights that are too large; small ones are so beside others, and lose nothing."""
    return {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == _FLOAT
        and np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0) > _LARGEST
    }


def _join_casts(graph: onnx.GraphProto) -> None:
    """Have operators in float32 read each other's values as they are.

    The converter turns every value to float16 in between, which is what they are to be spared.
    """
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    for back in casts.values():
        there = casts.get(back.input[0])
        if there is None or is_own(there):  # the model's own may be meant to round
            continue
        if (_target(there), _target(back)) == (_HALF, _FLOAT):
            back.input[0] = there.input[0]


def _target(cast: onnx.NodeProto) -> int:
    return next(int(each.i) for each in cast.attribute if each.name == "to")
