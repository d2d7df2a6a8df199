from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import make_node

from camcore.adapters.sources.onnx.graph import read_graph
from camcore.adapters.sources.onnx.model import OnnxModel
from camcore.errors import ExportError, InputError
from tests.adapters.sources.onnx.oracle import as_model

WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)


def read(path: Path, nodes: list[Any], image: Any, outputs: list[str], **options: Any) -> OnnxModel:
    weights = {"w": WEIGHT, "axes": np.array([2, 3])}
    onnx.save(as_model(nodes, 13, {"x": image}, outputs, weights, **options), path)
    return OnnxModel(read_graph(path))


CONV = make_node("Conv", ["x", "w"], ["c"])
POOL = make_node("GlobalAveragePool", ["c"], ["p"])
FLAT = make_node("Flatten", ["p"], ["f"])


@pytest.mark.parametrize(("operator", "kind"), [("Softmax", "softmax"), ("Sigmoid", "sigmoid")])
def test_the_scores_before_probabilities(tmp_path: Path, operator: str, kind: str) -> None:
    nodes = [
        CONV,
        POOL,
        FLAT,
        make_node(operator, ["f"], ["s"]),
        make_node("Identity", ["s"], ["y"]),
    ]
    x = np.zeros((2, 3, 8, 8), np.float32)
    model = read(tmp_path / "m.onnx", nodes, x, ["y"], x=["n", 3, 8, 8])
    assert (model.logits, model.probabilities) == ("logits", kind)
    found = model(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(
        found["scores"], getattr(torch, kind)(found["logits"], *[1] * (kind == "softmax"))
    )
    assert kind in model.notes[0]


def test_channels_behind_and_whole_numbers(tmp_path: Path) -> None:
    nodes = [
        make_node("Cast", ["x"], ["float"], to=1),
        make_node("Transpose", ["float"], ["t"], perm=[0, 3, 1, 2]),
        make_node("Conv", ["t", "w"], ["c"]),
        POOL,
    ]
    x = np.zeros((1, 8, 10, 3), np.uint8)
    model = read(tmp_path / "m.onnx", nodes, x, ["p"], x=["n", None, None, 3])
    assert model.channels_last
    assert (model.channels, model.size) == (3, (None, None))
    image = torch.rand(2, 3, 8, 10)
    expected = torch.nn.functional.conv2d(image, torch.from_numpy(WEIGHT)).mean((2, 3))
    torch.testing.assert_close(model(image), expected)  # (B, N), of (B, N, 1, 1)
    assert any("B, H, W, C" in note for note in model.notes)
    assert any("uint8" in note for note in model.notes)


def test_a_size_that_the_file_fixes(tmp_path: Path) -> None:
    model = read(tmp_path / "m.onnx", [CONV, POOL], np.zeros((1, 3, 8, 8), np.float32), ["p"])
    with pytest.raises(ExportError, match="fixes axis 3 of its images to 8, got 9"):
        model(torch.zeros(1, 3, 8, 9))


def test_nodes_go_by_the_names_that_viewers_show(tmp_path: Path) -> None:
    conv = make_node("Conv", ["x", "w"], ["c"], name="/stem/conv/Conv")
    model = read(tmp_path / "m.onnx", [conv, POOL], np.zeros((1, 3, 8, 8), np.float32), ["p"])
    names = model.layer_names()
    assert names["/stem/conv/Conv"] == names["c"]
    assert isinstance(model.get_submodule(names["c"]), torch.nn.Conv2d)


def test_names_that_a_model_has_of_its_own(tmp_path: Path) -> None:
    """Nodes and scopes called as its attributes are."""
    nodes = [
        make_node("Conv", ["x", "w"], ["c"], name="/graph/size/Conv"),
        make_node("GlobalAveragePool", ["c"], ["p"], name="notes"),
        make_node("Flatten", ["p"], ["logits"]),
        make_node("Softmax", ["logits"], ["y"]),
    ]
    x = np.zeros((2, 3, 8, 8), np.float32)
    model = read(tmp_path / "m.onnx", nodes, x, ["y"], x=["n", 3, 8, 8])
    assert model.logits == "logits"
    assert model.size == (8, 8)
    assert model(torch.randn(2, 3, 8, 8))["logits"].shape == (2, 4)
    assert {"graph_2", "notes_2", "logits_2"} <= {name for name, _ in model.named_modules()}


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of 2 axes"):
        read(
            tmp_path / "m.onnx",
            [make_node("Relu", ["x"], ["y"])],
            np.zeros((1, 3), np.float32),
            ["y"],
        )
    nodes = [make_node("Add", ["x", "z"], ["y"])]
    image = np.zeros((1, 3, 8, 8), np.float32)
    onnx.save(as_model(nodes, 13, {"x": image, "z": image}, ["y"]), tmp_path / "two.onnx")
    with pytest.raises(InputError, match="takes x, z; expected one"):
        OnnxModel(read_graph(tmp_path / "two.onnx"))
