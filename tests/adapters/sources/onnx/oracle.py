"""The oracle of operators: the node tests that the `onnx` package ships, and onnxruntime."""

import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.backend.test.case import node as cases
from torch import Tensor

from camcore.adapters.sources.onnx.graph import as_node
from camcore.adapters.sources.onnx.operators.table import wants_number
from camcore.adapters.sources.onnx.tidy import run_node
from camcore.errors import ExportError

# They compute their expected results in Python loops, three seconds each.
SLOW = {"averagepool": "AveragePool", "lppool": "LpPool", "maxpool": "MaxPool"}

# What PyTorch computes nothing with, and what no model holds that has gradients.
_NO_TYPES = re.compile(
    r"uint16|uint32|uint64|bfloat16|string|sequence|_opt$|empty_set|FLOAT[48]|INT[24]"
)
# Of equal values onnx takes the first; PyTorch any.
_TIES = re.compile(r"top_k_same_values")


@lru_cache
def _collected(slow: bool) -> dict[str, list[Any]]:
    """The tests of one node of the standard domain, by its operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their own computations
        for module in pkgutil.iter_modules(cases.__path__):
            if slow or module.name not in SLOW:
                importlib.import_module(f"{cases.__name__}.{module.name}")
    found: dict[str, list[Any]] = {}
    for case in cases._NodeTestCases:
        (first, *more) = case.model.graph.node
        odd = _NO_TYPES.search(case.name) or _TIES.search(case.name)
        if not more and not first.domain and not odd:
            found.setdefault(first.op_type, []).append(case)
    return found


def check_against_onnx(operator: str, *, slow: bool = False) -> tuple[int, list[str]]:
    """How many of its tests an operator passes, and the messages of those that it refuses."""
    passed, refused = 0, []
    for case in _collected(slow).get(operator, []):
        (proto,) = case.model.graph.node
        opset = next(each.version for each in case.model.opset_import if not each.domain)
        for given, expected in case.data_sets:
            if any(isinstance(each, onnx.TensorProto) for each in (*given, *expected)):
                continue  # types that NumPy does not know
            names = [value.name for value in case.model.graph.input]
            feeds = dict(zip(names, given, strict=True))
            try:
                results = run(proto, opset, feeds)
            except ExportError as error:
                refused.append(f"{case.name}: {error}")
                continue
            for ours, theirs in zip(results, expected, strict=False):
                assert ours.shape == theirs.shape, case.name
                np.testing.assert_allclose(
                    ours.astype(np.float64),
                    theirs.astype(np.float64),
                    rtol=case.rtol,
                    atol=max(case.atol, 1e-6),
                    err_msg=case.name,
                )
            passed += 1
    return passed, refused


def run(proto: onnx.NodeProto, opset: int, feeds: dict[str, Any]) -> list[Any]:
    """What our operator makes of arrays: tensors, where it does not want numbers."""
    node = as_node(proto, opset)
    values: list[Any] = []
    for position, name in enumerate(node.inputs):
        value = feeds.get(name) if name else None
        if value is not None and not wants_number(node.op, position):
            value = torch.from_numpy(np.array(value))
        values.append(value)
    with torch.no_grad():
        results = run_node(node, values)
    return [each.numpy() if isinstance(each, Tensor) else np.asarray(each) for each in results]


def check_against_onnxruntime(
    operator: str, opset: int, inputs: Sequence[Any], **attributes: Any
) -> None:
    """Our operator beside onnxruntime's, in any version of it."""
    names = [f"x{n}" if each is not None else "" for n, each in enumerate(inputs)]
    proto = onnx.helper.make_node(operator, names, ["y"], **attributes)
    feeds = {name: each for name, each in zip(names, inputs, strict=True) if name}
    model = as_model([proto], opset, feeds, ["y"])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, feeds)
    ours, *_ = run(proto, opset, feeds)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def as_model(
    nodes: Sequence[onnx.NodeProto],
    opset: int,
    inputs: dict[str, Any],
    outputs: Iterable[str],
    weights: dict[str, Any] | None = None,
    **sizes: Sequence[Any],
) -> onnx.ModelProto:
    """A model of nodes, with inputs as the arrays are or of other `sizes`."""
    kinds = {
        name: onnx.helper.make_tensor_value_info(
            name,
            onnx.helper.np_dtype_to_tensor_dtype(value.dtype),
            list(sizes.get(name, value.shape)),
        )
        for name, value in inputs.items()
    }
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        list(kinds.values()),
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(each, name) for name, each in (weights or {}).items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=min(10, opset + 1))
