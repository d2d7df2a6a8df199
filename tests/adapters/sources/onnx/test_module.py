from pathlib import Path

import torch
from torch import nn

from camcore.adapters.sources.onnx.graph import read_graph
from camcore.adapters.sources.onnx.model import OnnxModel
from camcore.adapters.sources.onnx.module import Rows, Scope, leaves


def test_modules_have_the_names_of_the_original(file: Path, net: nn.Module) -> None:
    model = OnnxModel(read_graph(file))
    names = {name for name, _ in model.named_modules()}
    assert {"layer1", "layer1.0", "layer1.1", "layer1.1.conv2", "head"} <= names
    assert isinstance(model.get_submodule("layer1.0"), Scope)
    assert isinstance(model.get_submodule("head"), nn.Linear)


def test_a_scope_returns_what_the_original_did(file: Path, net: nn.Module) -> None:
    model, x = OnnxModel(read_graph(file)), torch.randn(1, 3, 24, 24)
    seen = []
    for each in (model, net):
        hook = each.get_submodule("layer1").register_forward_hook(lambda m, i, o: seen.append(o))
        with torch.no_grad():
            each(x)
        hook.remove()
    torch.testing.assert_close(*seen)


def test_every_value_has_a_module(file: Path) -> None:
    graph = read_graph(file)
    found = leaves(OnnxModel(graph))
    assert set(found) == {output for node in graph.nodes for output in node.outputs}


def test_the_last_call_has_the_plain_name(net: nn.Module, file: Path) -> None:
    names = {name for name, _ in OnnxModel(read_graph(file)).named_modules()}
    # The older exporter numbers calls itself.
    assert {"layer1.0.relu", "layer1.0.relu_call1"} <= names or "layer1.0.relu_1" in names


def test_a_name_of_pytorchs_own_is_changed() -> None:
    scope = Scope(["x"], ["y"])
    assert scope.add("forward", nn.Identity(), ["x"], ["a"]) == "forward_"
    assert scope.add("a.0", nn.ReLU(), ["a"], ["b"]) == "a.0"
    assert scope.add("a.0", nn.ReLU(), ["b"], ["y"]) == "a.0_2"
    assert scope(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]


def test_rows_of_any_batch() -> None:
    rows = Rows(1, (1, 2, 17, 8), place=0, axis=0, of_one=2)
    assert rows.shape_for(torch.zeros(6, 17, 8)).tolist() == [3, 2, 17, 8]


def test_a_name_that_is_no_module_is_left_alone() -> None:
    scope = Scope(["x"], ["y"])
    scope.graph = "its own"  # type: ignore[assignment]
    assert scope.add("graph.relu", nn.ReLU(), ["x"], ["y"]) == "graph_.relu"
    assert scope.add("graph.relu", nn.ReLU(), ["y"], ["z"]) == "graph_.relu_2"
    assert scope.graph == "its own"
