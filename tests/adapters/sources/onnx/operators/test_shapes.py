import numpy as np
import pytest
import torch

from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.tidy import run_node
from tests.adapters.sources.onnx.oracle import check_against_onnxruntime

X = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def test_slices_of_both_versions() -> None:
    check_against_onnxruntime("Slice", 8, [X], starts=[0, 1], ends=[2, 1000], axes=[0, 2])
    pieces = [np.array(each) for each in ([-1, 4], [0, -9999], [2, 3], [-2, -1])]
    check_against_onnxruntime("Slice", 10, [X, *pieces])
    backwards = [np.array(each) for each in ([3], [0], [3], [-2])]
    check_against_onnxruntime("Slice", 13, [X, *backwards])


def test_axes_of_both_versions() -> None:
    check_against_onnxruntime("Squeeze", 11, [X[:1, :, :1]], axes=[0, 2])
    check_against_onnxruntime("Squeeze", 13, [X[:1, :, :1], np.array([0])])
    check_against_onnxruntime("Unsqueeze", 11, [X], axes=[0, 5])
    check_against_onnxruntime("Unsqueeze", 13, [X, np.array([-1, 1])])


def test_pads_of_both_versions() -> None:
    pads = [0, 0, 1, 2, 0, 0, 0, 1]
    for mode in ("constant", "reflect", "edge"):
        check_against_onnxruntime("Pad", 8, [X], pads=pads, mode=mode)
        check_against_onnxruntime("Pad", 13, [X, np.array(pads)], mode=mode)
    check_against_onnxruntime("Pad", 13, [X, np.array(pads), np.array(3, np.float32)])


def test_reshape_takes_over_where_a_zero_stands() -> None:
    check_against_onnxruntime("Reshape", 8, [X, np.array([0, -1, 5])])
    check_against_onnxruntime("Flatten", 9, [X], axis=2)
    check_against_onnxruntime("Flatten", 9, [X], axis=0)


@pytest.mark.parametrize("index", [np.array(1), np.array([2, -1]), np.array([[0, 1], [1, 2]])])
def test_gather(index: np.ndarray) -> None:
    check_against_onnxruntime("Gather", 11, [X, index], axis=1)


def test_sizes_stay_numbers_while_a_graph_is_traced() -> None:
    """A free batch is traced through Shape, Gather and Reshape as a symbol."""

    class Flat(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            (sizes,) = run_node(Node("s", "Shape", ("x",), ("y",)), [x])
            (rows,) = run_node(Node("g", "Gather", ("x", "i"), ("y",)), [sizes, np.array([0])])
            end = np.array([-1])
            (shape,) = run_node(Node("c", "Concat", ("a", "b"), ("y",), {"axis": 0}), [rows, end])
            return run_node(Node("r", "Reshape", ("x", "s"), ("y",)), [x, shape])[0]

    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(Flat(), (torch.rand(4, 3, 2),), dynamic_shapes=({0: batch},))
    assert program.module()(torch.rand(7, 3, 2)).shape == (7, 6)
