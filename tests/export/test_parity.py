"""pytorch-grad-cam 1.5.7 on the same model and images: who moves over gets the same picture."""

from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from camcore.export import explain
from camcore.export.write.capture import capture
from camcore.export.write.onnx_file import to_onnx
from tests.export.models import build, images
from tests.export.oracle import in_turn, run_file

pytorch_grad_cam: ModuleType = pytest.importorskip(
    "pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"
)
targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
pytestmark = pytest.mark.usefixtures("shared_traces")
CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "gradcam-elementwise": "GradCAMElementWise",
}


class PlainNet(nn.Module):
    """Nothing works in place: pytorch-grad-cam sees a value after such work, camcore before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.deep(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build(PlainNet, seed=1)


IMAGE, TARGETS = images(1, 3, 32, 40), [4, 0, 2]
IDS = torch.tensor(TARGETS)[:, None]


def peer_maps(method: str, layer: str, model: nn.Module) -> np.ndarray:
    peer = getattr(pytorch_grad_cam, CLASSES[method])
    with peer(model=model, target_layers=[model.get_submodule(layer)]) as cam:
        maps: np.ndarray = cam(IMAGE, [targets.ClassifierOutputTarget(c) for c in TARGETS])
    assert maps.max() > 0.9
    return maps


@pytest.mark.parametrize(("method", "layer"), in_turn(CLASSES, ["stem", "deep"]))
def test_eager(method: str, layer: str, model: nn.Module) -> None:
    explained = explain(model, torch.zeros(1, 3, 24, 24), method=method, layer=layer)
    given = explained(IMAGE, IDS).saliency_map[:, 0].numpy()
    np.testing.assert_allclose(given, peer_maps(method, layer, model), rtol=0, atol=1e-4)


# An export takes seconds: each layer for one method, the others if slow.
@pytest.mark.parametrize(
    ("method", "layer"),
    [
        ("gradcam", "deep"),
        ("layercam", "stem"),
        *(pytest.param(m, "stem", marks=pytest.mark.slow) for m in CLASSES if m != "layercam"),
    ],
)
def test_onnx(method: str, layer: str, model: nn.Module, tmp_path: Path) -> None:
    explained = explain(model, torch.zeros(1, 3, 24, 24), method=method, layer=layer)
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(capture(explained), explained.card))
    given = run_file(path, IMAGE, IDS).saliency_map[:, 0]
    np.testing.assert_allclose(given, peer_maps(method, layer, model), rtol=0, atol=1e-4)


class Overwritten(PlainNet):
    """As torchvision's DenseNet: a ReLU works in place on what the last layer returns."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.deep = self.deep[:-1]
        self.inplace = inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.deep(self.stem(x)), inplace=self.inplace)
        return self.fc(features.mean((2, 3)))  # type: ignore[no-any-return]


def test_the_peers_activations_are_overwritten() -> None:
    """A divergence: there the map is of what a later operator makes of the layer's tensor."""
    kept, overwritten = (build(partial(Overwritten, inplace), seed=1) for inplace in (False, True))
    expected = peer_maps("gradcam", "deep", kept)
    assert np.abs(peer_maps("gradcam", "deep", overwritten) - expected).max() > 0.1
    explained = explain(overwritten, torch.zeros(1, 3, 24, 24), method="gradcam", layer="deep")
    given = explained(IMAGE, IDS).saliency_map[:, 0].numpy()
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)
