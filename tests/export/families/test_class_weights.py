"""CAM: maps from the classifier's own weights."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from camcore.errors import ExportError, InputError
from camcore.export import explain, save
from tests.export.models import EXAMPLE, Head, Mean, build, images
from tests.export.oracle import assert_method_is_exact

pytestmark = pytest.mark.usefixtures("shared_traces")


def test_maps(small_net: nn.Module) -> None:
    assert_method_is_exact(small_net, "cam", "top")


def test_behind_a_relu_hirescam_gives_the_map_of_cam() -> None:
    """As in DenseNet, where no module returns the rectified features."""
    rectified, pooled = nn.ReLU(), (Mean((2, 3)), nn.Linear(6, 5))
    model, image = build(lambda: Head(nn.Sequential(rectified, *pooled))), images(1, 2, 24, 24)
    with pytest.raises(ExportError, match=r"found aten\.relu\.default.*, or hirescam"):
        explain(model, EXAMPLE, method="cam", layer="conv")
    cam = explain(model, EXAMPLE, method="cam", layer="head.0", relu=True)
    hirescam = explain(model, EXAMPLE, method="hirescam", layer="conv")
    torch.testing.assert_close(hirescam(image).saliency_map, cam(image).saliency_map)


def test_the_weight_is_in_the_file_once(tmp_path: Path) -> None:
    model = build(
        lambda: Head(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)))
    )
    path = tmp_path / "cam.onnx"
    save(explain(model, EXAMPLE, method="cam", layer="conv"), path)
    (name,) = (name for name, weight in model.named_parameters() if weight.shape == (5, 6))
    stored = onnx.load(path).graph.initializer
    assert [tensor.name for tensor in stored if list(tensor.dims) in ([5, 6], [6, 5])] == [name]


def test_cam_is_gradcam_where_it_applies(small_net: nn.Module) -> None:
    image, ids = images(1, 2, 24, 24), torch.tensor([[-1, 1]])
    maps = [
        explain(small_net, EXAMPLE, method=method, layer="top", relu=True)(image, ids).saliency_map
        for method in ("cam", "gradcam")
    ]
    torch.testing.assert_close(*maps, rtol=0, atol=1e-5)


def test_cam_at_a_layer_before_the_last(small_net: nn.Module) -> None:
    with pytest.raises(ExportError, match=r"cam needs global average pooling.*behind 'block'"):
        explain(small_net, EXAMPLE, method="cam", layer="block")


def test_cam_has_one_layer(small_net: nn.Module) -> None:
    with pytest.raises(InputError, match="cam explains the one layer before the pooling"):
        explain(small_net, EXAMPLE, method="cam", layer=["stem", "top"])
