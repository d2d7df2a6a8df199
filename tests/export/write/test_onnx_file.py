"""What is in an ONNX file: names, operators and weights, and nothing of where it was written."""

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.card import KEY
from camcore.errors import ExportError
from camcore.export import Explained, explain, save
from camcore.export.write import onnx_file
from camcore.export.write.capture import capture
from camcore.export.write.onnx_file import to_onnx
from tests.export.models import Classifier, Recurrent, build, images
from tests.export.oracle import (
    assert_same,
    explain_by_hand,
    run_file,
)
from tests.export.wide import Wide, check_size, save_wide, weight_bytes


@pytest.fixture(scope="module")
def proto(files: dict[str, Path]) -> onnx.ModelProto:
    return onnx.load(files[".onnx"])


@pytest.fixture(scope="module")
def plain(small_net: nn.Module) -> onnx.ModelProto:
    """The model alone, as PyTorch exports it."""
    free = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        small_net,
        (torch.zeros(2, 3, 24, 24),),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: free, 2: free, 3: free},),
        verbose=False,
    )
    return program.model_proto


def test_standard_operators_of_opset_18(proto: onnx.ModelProto) -> None:
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    onnx.checker.check_model(proto, full_check=True)


def test_no_gradient_operator_is_left(proto: onnx.ModelProto) -> None:
    operators = {node.op_type for node in proto.graph.node}
    assert "Conv" in operators
    assert not [name for name in operators if "Grad" in name]


def test_no_notes_of_the_exporter(proto: onnx.ModelProto, files: dict[str, Path]) -> None:
    assert b"pkg.torch" not in files[".onnx"].read_bytes()
    assert {entry.key for entry in proto.metadata_props} == {KEY, "camcore.sha256"}
    assert not proto.graph.metadata_props
    assert not proto.doc_string
    assert proto.producer_name == "camcore"
    for value in [*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer]:
        assert not value.metadata_props
        assert not value.doc_string


def test_names(proto: onnx.ModelProto) -> None:
    assert [value.name for value in proto.graph.input] == ["image", "class_ids"]
    names = ["scores", "classes", "saliency_map"]
    assert [value.name for value in proto.graph.output] == names


def axes(value: onnx.ValueInfoProto) -> list[Any]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_axes(proto: onnx.ModelProto) -> None:
    shapes = {value.name: axes(value) for value in [*proto.graph.input, *proto.graph.output]}
    assert shapes == {
        "image": ["batch", 3, "height", "width"],
        "class_ids": ["ids_batch", "k"],
        "scores": ["batch", 5],
        "classes": ["batch", "k"],
        "saliency_map": ["batch", "k", "height", "width"],
    }


def test_axes_of_a_fixed_size(small_net: nn.Module) -> None:
    explained = explain(small_net, torch.zeros(1, 3, 24, 32), dynamic_size=False)
    graph = onnx.load_from_string(to_onnx(capture(explained), explained.card)).graph
    assert axes(graph.input[0]) == ["batch", 3, 24, 32]
    assert axes(graph.output[2]) == ["batch", "k", 24, 32]


def test_weights_keep_the_names_that_the_model_has_for_them(
    proto: onnx.ModelProto, small_net: nn.Module
) -> None:
    given = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name in ("block.conv2.weight", "top.0.weight", "fc.weight", "fc.bias"):
        np.testing.assert_array_equal(given[name], small_net.get_parameter(name).detach().numpy())


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide(tmp_path_factory.mktemp("wide"), ".onnx")


def test_its_size(wide: Path) -> None:
    check_size(wide)


def test_each_weight_is_stored_once(wide: Path) -> None:
    proto = onnx.load(wide)
    hashes: Counter[str] = Counter()
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.size > 1024:
            # Sorted, for a turned or transposed copy is a copy.
            hashes[hashlib.sha256(np.sort(values, axis=None).tobytes()).hexdigest()] += 1
    assert len(hashes) == sum(tensor.numel() > 1024 for tensor in Wide().parameters())
    assert set(hashes.values()) == {1}
    constants = [node for node in proto.graph.node if node.op_type == "Constant"]
    assert all(node.ByteSize() < 1024 for node in constants)


def test_onnx_costs_little_more_than_the_model_alone(
    wide: Path, proto: onnx.ModelProto, plain: onnx.ModelProto
) -> None:
    assert wide.stat().st_size < 1.1 * weight_bytes()
    assert len(proto.graph.node) < len(plain.graph.node) + 140


def test_nothing_is_printed(
    explained: Explained, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        to_onnx(capture(explained), explained.card)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


class WindowAttention(nn.Module):
    """Each row of the map attends to itself, by heads, along one axis more than usual."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(1, (2, -1)).permute(0, 1, 3, 4, 2)
        y = F.scaled_dot_product_attention(heads, heads.roll(1, 3), heads.cos(), scale=0.7)
        return y.permute(0, 1, 4, 2, 3).flatten(1, 2)


@pytest.mark.slow
def test_zeros_before_a_max_pool_are_not_taken_for_its_own_padding(tmp_path: Path) -> None:
    class Padded(nn.Module):
        """Begins as BiT does: at the edge of what is negative, pooling finds the zeros."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3)
            self.last = nn.Conv2d(8, 8, 3)
            self.fc = nn.Linear(8, 5)
            nn.init.constant_(self.stem.bias, -3.0)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.pad(self.stem(x), (1, 1, 1, 1)), 3, stride=2)
            return self.fc(self.last(x).mean((2, 3)))  # type: ignore[no-any-return]

    # Scores and maps are compared where they are written.
    for method in ("gradcam", "ablationcam"):
        explained = explain(build(Padded), torch.zeros(1, 3, 20, 20), method=method, layer="stem")
        save(explained, tmp_path / "padded.onnx")


@pytest.mark.slow
def test_recurrent_layers(tmp_path: Path) -> None:
    model, path = build(Recurrent), tmp_path / "recurrent.onnx"
    save(explain(model, torch.zeros(1, 3, 8, 12), layer="stem"), path)
    for batch in (1, 3):
        image, ids = images(batch, batch, 8, 12), torch.tensor([[-1, 2]])
        assert_same(run_file(path, image, ids), explain_by_hand(model, "stem", image, ids))


def test_a_graph_that_the_checker_refuses(
    explained: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(graph: Any) -> None:
        graph[0].op_type = "NoSuchOperator"

    monkeypatch.setattr(onnx_file, "suit_weights_to_loops", spoil)
    with pytest.raises(ExportError, match="not sound"):
        to_onnx(capture(explained), explained.card)


def test_attention_within_windows(tmp_path: Path) -> None:
    def make() -> nn.Module:
        layers = nn.Conv2d(3, 8, 3, 2), WindowAttention(), nn.Conv2d(8, 4, 3), nn.Tanh()
        return Classifier(nn.Sequential(*layers), 4)

    model = build(make)
    path = tmp_path / "windows.onnx"
    save(explain(model, torch.zeros(1, 3, 24, 24), layer="features"), path)
    image, ids = images(5, 3, 24, 24), torch.tensor([[1, 0]])
    assert_same(run_file(path, image, ids), explain_by_hand(model, "features", image, ids))


@pytest.mark.parametrize("dynamic_size", [True, False])
@pytest.mark.slow
def test_cubic_interpolation_around_the_layer(dynamic_size: bool, tmp_path: Path) -> None:
    """Between fixed sizes a file interpolates no image, which onnxruntime is slow at."""

    def make() -> nn.Module:
        def scaled(by: float) -> nn.Module:
            return nn.Upsample(scale_factor=by, mode="bicubic")

        layers = scaled(0.75), nn.Conv2d(3, 8, 3, 2), nn.Tanh(), scaled(2), nn.Conv2d(8, 4, 3)
        return Classifier(nn.Sequential(*layers, nn.Tanh()), 4)

    model, path = build(make), tmp_path / "cubic.onnx"
    example = torch.zeros(1, 3, 24, 32)
    save(explain(model, example, layer="features.2", dynamic_size=dynamic_size), path)
    for batch in (5, 2):
        image, ids = images(batch, 3, 24, 32), torch.tensor([[1, 0]])
        assert_same(run_file(path, image, ids), explain_by_hand(model, "features.2", image, ids))
    assert dynamic_size == ("Resize" in {node.op_type for node in onnx.load(path).graph.node})


def test_an_operator_that_onnx_does_not_have_is_named() -> None:
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)  # type: ignore[no-any-return]

    model = build(lambda: Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), Bessel()), 4))
    explained = explain(model, torch.zeros(1, 3, 24, 24), method="activation")
    with pytest.raises(ExportError, match=r"written as ONNX: .*prims.bessel_j0.*\.pt2"):
        to_onnx(capture(explained), explained.card)
