"""What is in a written file: names, operators and weights, and nothing of where it was written."""

import hashlib
import io
import logging
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from camcore.card import KEY, Card, onnx_is_sealed, read_extra, zip_is_sealed
from camcore.errors import ExportError
from camcore.export import Explained, explain, save
from camcore.export.write import onnx_file
from camcore.export.write.capture import capture
from camcore.export.write.onnx_file import to_onnx
from camcore.export.write.pt2_file import _add_sizes_in_pairs
from tests.export.conftest import LAYER
from tests.export.models import Borders, Classifier, Recurrent, SmallNet, build, images
from tests.export.oracle import (
    TOLERANCE,
    assert_same,
    explain_by_hand,
    run_any_file,
    run_file,
    worst_error,
)

FORMATS = (".onnx", ".pt", ".pt2")


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


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 17, 40), (2, 48, 31)])
def test_other_batch_and_image_sizes(
    suffix: str, shape: tuple[int, ...], files: dict[str, Path], small_net: nn.Module
) -> None:
    image, ids = images(5, *shape), torch.tensor([[-1, 2]])
    assert_same(run_file(files[suffix], image, ids), explain_by_hand(small_net, LAYER, image, ids))


@pytest.mark.parametrize("suffix", FORMATS)
def test_ids_for_each_image(suffix: str, files: dict[str, Path], small_net: nn.Module) -> None:
    image, ids = images(6, 3, 24, 24), torch.tensor([[4, -1, 0], [-1, -1, 1], [2, 2, -1]])
    assert_same(run_file(files[suffix], image, ids), explain_by_hand(small_net, LAYER, image, ids))


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_one_row_of_ids_serves_any_batch(suffix: str, files: dict[str, Path]) -> None:
    image = images(6, 3, 24, 24)
    one, each = (run_file(files[suffix], image, torch.tensor(ids)) for ids in ([[2]], [[2]] * 3))
    np.testing.assert_array_equal(one.saliency_map, each.saliency_map)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_card_and_the_seal(suffix: str, files: dict[str, Path], explained: Explained) -> None:
    content = files[suffix].read_bytes()
    if suffix == ".onnx":
        entries = {
            entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props
        }
        text = entries[KEY]
        assert onnx_is_sealed(io.BytesIO(content))
    else:
        found = read_extra(zipfile.ZipFile(io.BytesIO(content)), KEY)
        assert found is not None
        text = found
        assert zip_is_sealed(io.BytesIO(content))
    card = Card.from_json(text)
    assert card.layer == explained.card.layer
    assert card.proof["images"] >= 4
    assert card.proof["worst_relative_error"] < 1e-4


def test_standard_operators_of_opset_18(proto: onnx.ModelProto) -> None:
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    onnx.checker.check_model(proto, full_check=True)


def test_no_gradient_operator_is_left(proto: onnx.ModelProto) -> None:
    operators = {node.op_type for node in proto.graph.node}
    assert "Conv" in operators
    assert not [name for name in operators if "Grad" in name]


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_no_source_paths(suffix: str, files: dict[str, Path]) -> None:
    content = files[suffix].read_bytes()
    assert len(content) > 1000
    texts = [content]
    if suffix != ".onnx":
        archive = zipfile.ZipFile(io.BytesIO(content))
        texts = [archive.read(name) for name in archive.namelist()]
    here = str(Path(__file__).parents[2]).encode()
    site = str(Path(torch.__file__).parent).encode()
    for text in texts:
        assert here not in text
        assert site not in text
        assert b"site-packages" not in text


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


def test_class_ids_may_be_left_out(files: dict[str, Path]) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(files[".onnx"], options)
    image = images(7, 3, 24, 24)
    given = session.run(["classes", "saliency_map"], {"image": image.numpy()})
    asked = run_file(files[".onnx"], image, torch.tensor([[-1]]))
    np.testing.assert_array_equal(given[0], asked.classes)
    np.testing.assert_array_equal(given[1], asked.saliency_map)


def test_weights_keep_the_names_that_the_model_has_for_them(
    proto: onnx.ModelProto, small_net: nn.Module
) -> None:
    given = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name in ("block.conv2.weight", "top.0.weight", "fc.weight", "fc.bias"):
        np.testing.assert_array_equal(given[name], small_net.get_parameter(name).detach().numpy())


class Wide(nn.Module):
    """Weights large enough that a second copy would show, in layers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 96, 3, stride=2)
        self.deep = nn.Conv2d(96, 128, 3, padding=1)
        self.strided = nn.Conv2d(128, 128, 3, stride=2, groups=2)
        self.hidden = nn.Linear(128, 256)
        self.fc = nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.strided(self.deep(self.stem(x).relu()).relu()).relu().mean((2, 3))
        return self.fc(self.hidden(x).relu())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def wide_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wide")
    explained = explain(build(Wide), torch.zeros(1, 3, 96, 96), layer="stem")
    paths = {suffix: folder / f"wide{suffix}" for suffix in FORMATS}
    for path in paths.values():
        save(explained, path)
    return paths


def weight_bytes() -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in Wide().parameters())


def test_each_weight_is_stored_once_in_onnx(wide_files: dict[str, Path]) -> None:
    proto = onnx.load(wide_files[".onnx"])
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


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_weight_is_stored_once(suffix: str, wide_files: dict[str, Path]) -> None:
    """The weights and a graph, not the example; a graph takes .pt2 a quarter of a megabyte."""
    size = wide_files[suffix].stat().st_size
    assert weight_bytes() > 900_000
    assert weight_bytes() < size < 1.1 * weight_bytes() + 300_000


def test_onnx_costs_little_more_than_the_model_alone(
    wide_files: dict[str, Path], proto: onnx.ModelProto, plain: onnx.ModelProto
) -> None:
    assert wide_files[".onnx"].stat().st_size < 1.1 * weight_bytes()
    assert len(proto.graph.node) < len(plain.graph.node) + 140


class Bottleneck(nn.Module):
    """A block of a ResNet that halves its map, in two ways that have to meet again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()  # type: ignore[no-any-return]


@pytest.mark.slow
def test_gradients_of_sizes_that_are_seen_to_meet_with_an_example_alone(tmp_path: Path) -> None:
    model = build(
        lambda: Classifier(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Bottleneck(4), Bottleneck(4)), 4)
    )
    explained = explain(model, torch.zeros(1, 3, 48, 48), method="fullgrad")
    assert explained.card.image.height is None
    save(explained, tmp_path / "model.onnx")
    image, ids = images(3, 2, 61, 50), torch.tensor([[1, 0], [3, 2]])
    *_, maps = run_any_file(tmp_path / "model.onnx", image, ids).values()
    expected = explained(image, ids).saliency_map.detach().numpy()
    assert worst_error(maps, expected) < TOLERANCE
    assert np.abs(maps[0] - maps[1]).max() > 0.05


def test_a_graph_that_cannot_be_captured(
    explained: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ValueError("it went wrong\nfor reasons")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ExportError, match=r"cannot be exported: it went wrong$"):
        capture(explained)


def test_nothing_is_printed(
    explained: Explained, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        to_onnx(capture(explained), explained.card)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("num_classes", [1, 2])
def test_a_model_of_few_classes(num_classes: int, suffix: str, tmp_path: Path) -> None:
    """As many classes as K in the example, or fewer, must not fix K."""

    def make() -> nn.Module:
        model = SmallNet()
        model.fc = nn.Linear(12, num_classes)
        return model

    model = build(make)
    path = tmp_path / f"few{suffix}"
    save(explain(model, torch.zeros(1, 3, 24, 24), layer=LAYER), path)
    for k in range(1, num_classes + 1):
        image, ids = images(7, 3, 32, 24), torch.full((1, k), -1)
        assert_same(run_file(path, image, ids), explain_by_hand(model, LAYER, image, ids))


class WindowAttention(nn.Module):
    """Each row of the map attends to itself, by heads, along one axis more than usual."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(1, (2, -1)).permute(0, 1, 3, 4, 2)
        y = F.scaled_dot_product_attention(heads, heads.roll(1, 3), heads.cos(), scale=0.7)
        return y.permute(0, 1, 4, 2, 3).flatten(1, 2)


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


@pytest.mark.parametrize("suffix", FORMATS)
def test_borders_and_statistics(suffix: str, tmp_path: Path) -> None:
    model, path = build(Borders), tmp_path / f"borders{suffix}"
    save(explain(model, torch.zeros(1, 3, 16, 20), layer="stem"), path)
    for batch, size in ((1, (16, 20)), (3, (23, 18))):
        image, ids = images(batch, batch, *size), torch.tensor([[-1, 2]])
        assert_same(run_file(path, image, ids), explain_by_hand(model, "stem", image, ids))


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


def test_sums_of_sizes_become_additions() -> None:
    """Archives of torch 2.11 have no place for them."""

    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.new_ones(torch.sym_sum([x.shape[0], y.shape[0], 3, x.shape[0]]))

    free = {0: Dim.DYNAMIC}
    program = torch.export.export(
        Sum(), (torch.ones(4), torch.ones(5)), dynamic_shapes=(free, free)
    )
    graph = program.graph
    before = graph.find_nodes(op="call_function", target=torch.sym_sum)
    _add_sizes_in_pairs(graph)
    assert before
    assert not graph.find_nodes(op="call_function", target=torch.sym_sum)
    given = program.module(check_guards=False)(torch.ones(7), torch.ones(2))
    assert len(given) == 7 + 2 + 3 + 7
