from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export import explain, save
from camcore.export.cut import cut
from camcore.export.find.classifier import pooled_linear_weight
from camcore.export.find.modules import find_activation
from camcore.export.trace.trace import trace
from tests.export.models import build, images


class Head(nn.Module):
    """A convolution, then whatever `head` makes of its features."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x))  # type: ignore[no-any-return]


class Mean(nn.Module):
    def __init__(self, axes: tuple[int, ...], keepdim: bool = False) -> None:
        super().__init__()
        self.axes, self.keepdim = axes, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes, self.keepdim)


def weight(*head: nn.Module) -> tuple[Tensor, nn.Module]:
    model = build(lambda: Head(nn.Sequential(*head)))
    traced = trace(model, torch.zeros(1, 3, 24, 24))
    activation = find_activation(traced, "conv")
    parts = cut(traced.graph, at=[activation], kept=[activation])
    return parts.tail.get_buffer(pooled_linear_weight(parts.tail, "conv")), model


@pytest.mark.parametrize(
    "pooling",
    [
        (nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Dropout()),
        (Mean((2, 3)),),
        (Mean((-1, -2)),),
        (Mean((2, 3), keepdim=True), nn.Flatten(1)),
        (nn.Flatten(2), Mean((2,))),
        (nn.Flatten(2), Mean((-1,), keepdim=True), nn.Flatten(1)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_weight_of_the_linear_layer(pooling: tuple[nn.Module, ...], bias: bool) -> None:
    linear = nn.Linear(6, 5, bias=bias)
    found, model = weight(*pooling, linear)
    assert any(found.data_ptr() == tensor.data_ptr() for tensor in model.parameters())
    assert torch.equal(found, linear.weight)


@pytest.mark.parametrize(
    "head",
    [
        (nn.ReLU(), Mean((2, 3)), nn.Linear(6, 5)),
        (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
        (Mean((2, 3)), nn.Linear(6, 4), nn.Linear(4, 5)),
        (Mean((2, 3)), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5)),
        (Mean((2, 3)), nn.Linear(6, 5), nn.Softmax(1)),
        (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)),
        (nn.Conv2d(6, 5, 1), Mean((2, 3))),
        (nn.Flatten(2), Mean((1,)), nn.Linear(22 * 22, 5)),
        (nn.Flatten(2), nn.Unflatten(1, (3, 2)), nn.Flatten(2), Mean((2,)), nn.Linear(3, 5)),
        (nn.Flatten(1), nn.Unflatten(1, (12, -1)), Mean((2,)), nn.Linear(12, 5)),
        (Mean((2, 3)), nn.BatchNorm1d(6), nn.Linear(6, 5)),
    ],
)
def test_anything_else_is_refused(head: tuple[nn.Module, ...]) -> None:
    with pytest.raises(
        ExportError, match=r"cam needs global average pooling and one linear layer.*'conv'"
    ):
        weight(*head)


def test_behind_a_relu_hirescam_gives_the_map_of_cam() -> None:
    """As in DenseNet, where no module returns the rectified features."""
    rectified, pooled = nn.ReLU(), (Mean((2, 3)), nn.Linear(6, 5))
    with pytest.raises(ExportError, match=r"found aten\.relu\.default.*, or hirescam"):
        weight(rectified, *pooled)
    model = build(lambda: Head(nn.Sequential(rectified, *pooled)))
    example, image = torch.zeros(1, 3, 24, 24), images(1, 2, 24, 24)
    cam = explain(model, example, method="cam", layer="head.0", relu=True)
    hirescam = explain(model, example, method="hirescam", layer="conv")
    torch.testing.assert_close(hirescam(image).saliency_map, cam(image).saliency_map)


def test_a_mean_over_one_axis_is_no_global_pooling() -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.mean(3).amax(2)

    with pytest.raises(ExportError, match="cam needs"):
        weight(Rows(), nn.Linear(6, 5))


def test_the_weight_is_in_the_file_once(tmp_path: Path) -> None:
    model = build(
        lambda: Head(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)))
    )
    path = tmp_path / "cam.onnx"
    save(explain(model, torch.zeros(1, 3, 24, 24), method="cam", layer="conv"), path)
    (name,) = (name for name, weight in model.named_parameters() if weight.shape == (5, 6))
    stored = onnx.load(path).graph.initializer
    assert [tensor.name for tensor in stored if list(tensor.dims) in ([5, 6], [6, 5])] == [name]
