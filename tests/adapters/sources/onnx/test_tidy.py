import numpy as np

from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.tidy import fold, needed, without_strides


def test_constants_are_folded() -> None:
    nodes = [
        Node("a", "Add", ("two", "three"), ("five",)),
        Node("b", "Mul", ("x", "five"), ("y",)),
    ]
    left, known = fold(nodes, {"two": np.array(2.0), "three": np.array(3.0)})
    assert left == nodes[1:]
    assert known["five"] == 5


def test_what_no_output_depends_on_goes() -> None:
    nodes = [Node("a", "Relu", ("x",), ("y",)), Node("b", "Exp", ("x",), ("z",))]
    assert needed(nodes, ["y"]) == nodes[:1]


def test_a_row_of_all_elements_is_a_shape() -> None:
    row = Node("r", "Reshape", ("x", "all"), ("row",))
    gather = Node("g", "Gather", ("row", "index"), ("y",))
    constants = {"all": np.array([-1]), "index": np.arange(6).reshape(1, 6, 1)}
    found, known = without_strides([row, gather], constants)
    assert found[1].op == "Reshape"
    assert known[found[1].inputs[1]].tolist() == [1, 6, 1]


def test_another_order_stays_a_list() -> None:
    row = Node("r", "Reshape", ("x", "all"), ("row",))
    gather = Node("g", "Gather", ("row", "index"), ("y",))
    constants = {"all": np.array([-1]), "index": np.arange(6)[::-1].reshape(1, 6, 1)}
    found, _ = without_strides([row, gather], constants)
    assert found == [row, gather]
