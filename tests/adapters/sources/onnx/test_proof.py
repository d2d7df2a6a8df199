from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import make_node

from camcore.adapters.sources.onnx.graph import read_graph
from camcore.adapters.sources.onnx.model import OnnxModel
from camcore.adapters.sources.onnx.operators.table import OPERATORS
from camcore.adapters.sources.onnx.proof import prove_file, prove_module, relative_error
from camcore.errors import ExportError, FileError, ProofError
from camcore.export import explain, save
from tests.adapters.sources.onnx.oracle import as_model

X = np.zeros((1, 3, 8, 8), np.float32)


def read(path: Path, *nodes: Any, **sizes: Any) -> OnnxModel:
    onnx.save(
        as_model(nodes, 13, {"x": X}, ["y"], {"two": np.full(8, 2, np.float32)}, **sizes), path
    )
    return OnnxModel(read_graph(path))


NODES = [
    make_node("Mul", ["x", "two"], ["a"], name="times"),
    make_node("Tanh", ["a"], ["b"], name="bend"),
    make_node("Exp", ["b"], ["y"], name="grow"),
]


def test_a_module_that_is_right(tmp_path: Path) -> None:
    assert prove_module(read(tmp_path / "m.onnx", *NODES)) < 1e-5
    assert prove_module(read(tmp_path / "m.onnx", *NODES, x=["n", 3, 8, 8])) < 1e-5


def test_the_first_node_that_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "Tanh", lambda node, x: torch.tanh(x) * 1.01)
    with pytest.raises(ExportError, match=r"node 'bend' \(Tanh, opset 13\) differs .* by 1.0e-02"):
        prove_module(read(tmp_path / "m.onnx", *NODES))


def test_a_batch_that_cannot_be_freed(tmp_path: Path) -> None:
    """The mean over all images is something else than that of each."""
    mean = make_node("ReduceMean", ["x"], ["y"], axes=[0, 1], keepdims=1)
    with pytest.raises(ExportError, match="made for one image"):
        prove_module(read(tmp_path / "m.onnx", mean))
    with pytest.raises(ExportError, match="batches of 2 images alone"):
        prove_module(read(tmp_path / "m.onnx", *NODES, x=[2, 3, 8, 8]))


def test_a_file_that_does_not_run(tmp_path: Path) -> None:
    wrong = make_node("Reshape", ["x", "two"], ["y"])
    with pytest.raises(FileError, match="does not run in onnxruntime"):
        prove_module(read(tmp_path / "m.onnx", wrong))


def test_errors_are_relative_to_the_largest_value() -> None:
    assert relative_error([1.0, 10.0], [1.0, 11.0]) == pytest.approx(1 / 11)
    assert relative_error([1.0], [1.0, 2.0]) == float("inf")


def test_a_written_file_that_is_not_the_original(
    file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is as the module is, but the module was changed behind the proof."""
    model = OnnxModel(read_graph(file))
    prove_module(model)
    with torch.no_grad():
        model.get_submodule("head").weight *= 1.01
    explained = explain(model, torch.zeros(1, 3, 24, 24), layer="layer1", dynamic_size=False)
    folder = tmp_path_factory.mktemp("changed")
    with pytest.raises(ProofError, match=r"differs from .*\.onnx in onnxruntime"):
        save(explained, folder / "m.pt", check=partial(prove_file, model))
    assert not list(folder.iterdir())
