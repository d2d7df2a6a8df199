"""pytorch-grad-cam 1.5.7 on the same model and images: a user who moves over gets the same picture."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from camcore.export import explain, save
from tests.export.models import build, images
from tests.export.oracle import run_file

pytorch_grad_cam: ModuleType = pytest.importorskip(
    "pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"
)
targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")

CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "gradcam-elementwise": "GradCAMElementWise",
}


class PlainNet(nn.Module):
    """No operator works in place: pytorch-grad-cam's hooks see a value after it was worked on, camcore before."""

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


@pytest.mark.parametrize("layer", ["stem", "deep"])
@pytest.mark.parametrize("method", CLASSES)
def test_maps(method: str, layer: str, model: nn.Module, tmp_path: Path) -> None:
    image, classes = images(1, 3, 32, 40), [4, 0, 2]
    peer = getattr(pytorch_grad_cam, CLASSES[method])
    with peer(model=model, target_layers=[model.get_submodule(layer)]) as cam:
        expected = cam(image, [targets.ClassifierOutputTarget(c) for c in classes])
    assert expected.max() > 0.9

    ids = torch.tensor(classes)[:, None]
    explained = explain(model, torch.zeros(1, 3, 24, 24), method=method, layer=layer)
    eager = explained(image, ids).saliency_map[:, 0].numpy()
    np.testing.assert_allclose(eager, expected, atol=1e-4)

    save(explained, tmp_path / "model.onnx")
    written = run_file(tmp_path / "model.onnx", image, ids).saliency_map[:, 0]
    np.testing.assert_allclose(written, expected, atol=1e-4)
