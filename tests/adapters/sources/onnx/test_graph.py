from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from camcore.adapters.sources.onnx.graph import read_graph
from camcore.errors import CamcoreError, ExportError, FileError, InputError
from tests.adapters.sources.onnx.oracle import as_model

X = np.zeros((1, 3, 8, 8), np.float32)


def saved(path: Path, *nodes: onnx.NodeProto, opset: int = 13, **options: Any) -> Path:
    onnx.save(as_model(nodes, opset, {"x": X}, ["y"], **options), path)
    return path


def test_nodes_are_put_in_order(tmp_path: Path) -> None:
    second, first = (
        make_node("Exp", ["a"], ["y"], name="2"),
        make_node("Abs", ["x"], ["a"], name="1"),
    )
    graph = read_graph(saved(tmp_path / "m.onnx", second, first))
    assert [node.name for node in graph.nodes] == ["1", "2"]
    assert (graph.opset, graph.outputs, graph.half) == (13, ("y",), False)
    assert graph.inputs[0].sizes == (1, 3, 8, 8)
    assert len(graph.sha256) == 64


@pytest.mark.parametrize(
    ("operator", "domain", "reason"),
    [
        ("QLinearConv", "", "quantised.*floating point"),
        ("NonMaxSuppression", "", "does not read.*extract_model"),
        ("FusedConv", "com.microsoft", "a runtime's own"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, operator: str, domain: str, reason: str) -> None:
    node = make_node(operator, ["x"], ["y"], name="odd", domain=domain)
    with pytest.raises(ExportError, match=f"node 'odd' is {operator}.*{reason}"):
        read_graph(saved(tmp_path / "m.onnx", node))


def test_old_opsets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset 7, expected 8"):
        read_graph(saved(tmp_path / "m.onnx", make_node("Relu", ["x"], ["y"]), opset=7))


def test_values_that_nothing_makes(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="wants b, which nothing makes"):
        read_graph(saved(tmp_path / "m.onnx", make_node("Add", ["x", "b"], ["y"])))


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(FileError, match="does not exist"):
        read_graph(path)
    path.write_bytes(b"no protobuf \xff")
    with pytest.raises(FileError):
        read_graph(path)
    path.write_bytes(b"")
    with pytest.raises(FileError, match="holds no graph"):
        read_graph(path)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    weights = {"w": np.ones((1, 3, 8, 8), np.float32)}
    model = as_model([make_node("Mul", ["x", "w"], ["y"])], 13, {"x": X}, ["y"], weights)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    assert read_graph(path).constants["w"].shape == X.shape
    (tmp_path / "m.bin").unlink()
    with pytest.raises(CamcoreError, match="must lie beside it"):
        read_graph(path)


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    weights = {"w": np.ones((1, 3, 8, 8), np.float16)}
    inputs = {"x": X.astype(np.float16)}
    model = as_model([make_node("Mul", ["x", "w"], ["y"])], 13, inputs, ["y"], weights)
    onnx.save(model, tmp_path / "m.onnx")
    graph = read_graph(tmp_path / "m.onnx")
    assert graph.half
    assert graph.constants["w"].dtype == np.float32
