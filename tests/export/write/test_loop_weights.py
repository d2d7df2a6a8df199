"""The step of a loop has its weights to itself, and the file has them once."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from camcore.export import explain, save
from camcore.export.write import loop_weights
from tests.export.models import NUM_CLASSES, build, images
from tests.export.oracle import TOLERANCE, first_fast, run_any_file, worst_error
from tests.export.pass_oracle import Place, maps_of_passes


class Weighted(nn.Module):
    """Weights of several kinds, large enough that a second copy would show."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(16, 32, 1, bias=False),
            nn.Tanh(),
            nn.Conv2d(32, 32, 3),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.up = nn.ConvTranspose2d(32, 16, 2)
        self.of_points = nn.Linear(16, 600)  # of few values, the exporter would turn it
        self.hidden = nn.Linear(600, 64)
        self.fc = nn.Linear(64, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.deep(self.stem(x))).relu()
        x = self.of_points(x.flatten(2).transpose(1, 2)).relu().mean(1)
        return self.fc(self.hidden(x).relu())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build(Weighted)


@pytest.fixture(scope="module", params=first_fast(["ablationcam", "scorecam", "rise"]))
def path(
    request: pytest.FixtureRequest, model: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    how: dict[str, Any] = {"n_masks": 6} if request.param == "rise" else {"layer": "stem"}
    explained = explain(model, torch.zeros(1, 3, 24, 24), method=request.param, **how)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.onnx"
    save(explained, path)
    return path


def step_of(path: Path) -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """The graph, and the body of its only loop."""
    graph = onnx.load(path).graph
    (scan,) = [node for node in graph.node if node.op_type == "Scan"]
    (body,) = [attribute.g for attribute in scan.attribute if attribute.name == "body"]
    return graph, body


def test_weights_of_a_step_are_its_own(path: Path, model: nn.Module) -> None:
    graph, body = step_of(path)
    stored = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    local = {node.output[0]: node for node in body.node}
    shapes = {tensor.name: tensor for tensor in body.initializer}
    convolutions = [node for node in body.node if node.op_type in {"Conv", "ConvTranspose"}]
    assert len(convolutions) == {"ablationcam": 2}.get(path.stem, 4)
    for node in convolutions:
        for name in node.input[1:]:
            reshape = local[name]
            assert reshape.op_type == "Reshape"
            weight, shape = reshape.input
            found = onnx.numpy_helper.to_array(shapes[shape]).tolist()
            assert found == stored[weight]
    # At the beginning, where whoever follows may use them.
    kinds = [node.op_type for node in body.node]
    count = sum(node.output[0].endswith(".local") for node in body.node)
    assert count >= 4
    assert set(kinds[:count]) == {"Reshape"}
    # No step asks for a filter of its surroundings but there, or for a column of it.
    others = [node for node in body.node[count:] if node.op_type != "Gather"]
    asked = {name for node in others for name in node.input}
    assert not asked & {name for name, weight in model.named_parameters() if weight.ndim > 2}


def test_weights_are_transposed_once(path: Path) -> None:
    """Before the loop, for the prediction and for all steps."""
    graph, body = step_of(path)
    stored = {tensor.name for tensor in graph.initializer}
    (transpose,) = [node for node in graph.node if node.input[:1] == ["of_points.weight"]]
    assert transpose.op_type == "Transpose"
    assert not [
        node for node in body.node if node.op_type == "Transpose" and node.input[0] in stored
    ]
    assert [node.op_type for node in body.node if transpose.output[0] in node.input] == ["MatMul"]


@pytest.mark.parametrize("method", first_fast(["ablationcam", "scorecam", "rise"]))
def test_large_factors_come_first(
    method: str, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime would hold a constant second factor another time, rearranged."""
    monkeypatch.setattr(loop_weights, "_LARGE", 1000)
    how: dict[str, Any] = {"n_masks": 6} if method == "rise" else {"layer": "stem"}
    explained = explain(model, torch.zeros(1, 3, 24, 24), method=method, **how)
    save(explained, tmp_path / "model.onnx")
    _, body = step_of(tmp_path / "model.onnx")
    firsts = {node.input[0] for node in body.node if node.op_type == "MatMul"}
    assert firsts >= {"hidden.weight", "fc.weight"}
    assert not [node for node in body.node if node.op_type == "Gemm"]
    image, ids = images(4, 2, 20, 26), torch.tensor([[4, 1], [0, 2]])
    given = run_any_file(tmp_path / "model.onnx", image, ids)["saliency_map"]
    assert worst_error(given, explained(image, ids).saliency_map.numpy()) < TOLERANCE


def digest(values: np.ndarray) -> str:
    """Of the values in order, for a turned or transposed copy is a copy."""
    return hashlib.sha256(np.sort(values, axis=None).tobytes()).hexdigest()


def test_each_weight_is_stored_once(path: Path, model: nn.Module) -> None:
    graph, body = step_of(path)
    stored = Counter(
        digest(onnx.numpy_helper.to_array(tensor))
        for tensor in [*graph.initializer, *body.initializer]
    )
    for name, weight in model.named_parameters():
        # Before the layer the exporter has joined a convolution with its batch norm.
        joined = path.stem == "ablationcam" and name.startswith("stem")
        if weight.numel() > 64 and not joined:
            assert stored[digest(weight.detach().numpy())] == 1, name
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert path.stat().st_size < size + 60_000


def test_onnxruntime_optimizes_the_step(path: Path, tmp_path: Path) -> None:
    """Its convolutions are fused with what follows, or in blocks of channels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    _, body = step_of(tmp_path / "optimized.onnx")
    quick = [
        node
        for node in body.node
        if node.op_type == "FusedConv" or (node.domain, node.op_type)[0].endswith("nchwc")
    ]
    assert [node for node in quick if "Conv" in node.op_type]
    assert not [node for node in body.node if node.op_type == "BatchNormalization"]
    assert not [node for node in body.node if node.output[0].endswith(".local")]


def test_onnxruntime_has_nothing_to_say(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = images(1, 1, 24, 24).numpy()
    session.run(None, {"image": image, "class_ids": np.array([[-1]])})
    assert capfd.readouterr().err.strip() == ""


def test_maps(path: Path, model: nn.Module) -> None:
    image, ids = images(4, 2, 20, 26), [[4, 1], [0, 2]]
    place = Place() if path.stem == "rise" else Place("stem")
    how: dict[str, Any] = {"n_masks": 6} if path.stem == "rise" else {}
    if path.stem == "rise":
        from tests.export.pass_oracle import probability

        how["objective"] = probability
    given = run_any_file(path, image, torch.tensor(ids))["saliency_map"]
    expected = maps_of_passes(path.stem, model, place, (image,), ids, **how)
    assert worst_error(given, expected) < TOLERANCE
