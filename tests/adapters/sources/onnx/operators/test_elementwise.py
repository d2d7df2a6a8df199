import numpy as np
import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.tidy import run_node
from tests.adapters.sources.onnx.oracle import check_against_onnxruntime

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_softmax_flattened_before_opset_13(operator: str, axis: int) -> None:
    check_against_onnxruntime(operator, 11, [X], axis=axis)
    check_against_onnxruntime(operator, 13, [X], axis=axis)


def test_clip_had_its_bounds_as_attributes() -> None:
    check_against_onnxruntime("Clip", 10, [X], min=-0.5, max=0.25)
    check_against_onnxruntime("Clip", 8, [X], min=0.0)
    check_against_onnxruntime("Clip", 13, [X, None, np.array(0.5, np.float32)])


@pytest.mark.parametrize(("x", "y"), [(-7, 2), (7, 2), (-7, -2), (6, 3)])
def test_integers_are_divided_towards_zero(x: int, y: int) -> None:
    check_against_onnxruntime("Div", 13, [np.array([x, 1]), np.array([y, 1])])


@pytest.mark.parametrize("to", [1, 6, 7, 9, 2])
def test_casts(to: int) -> None:
    check_against_onnxruntime("Cast", 13, [np.abs(X) * 3], to=to)
    check_against_onnxruntime("Cast", 9, [np.arange(3)], to=to)
    like = np.zeros(1, {1: np.float32, 6: np.int32, 7: np.int64, 9: bool, 2: np.uint8}[to])
    check_against_onnxruntime("CastLike", 15, [np.abs(X) * 3, like])


def test_numbers_are_cast_without_tensors() -> None:
    """While a graph is traced these have no values."""
    x = np.array([-1.5, 2.5], np.float32)
    with FakeTensorMode():
        (whole,) = run_node(Node("n", "Cast", ("x",), ("y",), {"to": 7}), [x])
        (ceiling,) = run_node(Node("n", "Ceil", ("x",), ("y",)), [x])
    assert whole.tolist() == [-1, 2]
    assert ceiling.tolist() == [-1, 3]


@pytest.mark.parametrize("opset", [8, 12, 20])
def test_sigmoid_of_straight_lines(opset: int) -> None:
    check_against_onnxruntime("HardSigmoid", opset, [4 * X], alpha=1 / 6, beta=0.5)
    check_against_onnxruntime("HardSigmoid", opset, [4 * X])
