import numpy as np
import pytest

from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.tidy import run_node
from camcore.errors import ExportError
from tests.adapters.sources.onnx.oracle import check_against_onnxruntime

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax", "ReduceL2", "ReduceProd"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_were_attributes(operator: str, keepdims: int) -> None:
    check_against_onnxruntime(operator, 8, [X], axes=[0, 2], keepdims=keepdims)
    check_against_onnxruntime(operator, 11, [X], axes=[-1], keepdims=keepdims)
    check_against_onnxruntime(operator, 18, [X, np.array([0, 2])], keepdims=keepdims)
    check_against_onnxruntime(operator, 8, [X], keepdims=keepdims)


def test_what_is_refused_is_named() -> None:
    node = Node("sum", "CumSum", ("x", "axis"), ("y",), {"reverse": 1})
    with pytest.raises(ExportError, match=r"node 'sum' \(CumSum, opset 20\) sums up .*backwards"):
        run_node(node, [X, np.array(1)])
