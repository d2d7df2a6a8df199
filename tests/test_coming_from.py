"""What docs/COMING_FROM.md puts side by side gives the same maps: its blocks are run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from tests.test_readme import ROOT, blocks

PAGE = (ROOT / "docs" / "COMING_FROM.md").read_text()


class Net(nn.Module):
    """As torchvision's ResNets call their last layer, of a thousand classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=8), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.Softplus()
        )
        self.fc = nn.Linear(6, 1000)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.layer4(image).mean((2, 3)))
        return scores


def code(title: str) -> list[str]:
    """The Python blocks below a title."""
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [block for language, block in blocks(text) if language == "python"]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the blocks take for granted."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    spots = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    spots.resize((224, 224), Image.Resampling.BICUBIC).save("cat.jpg", quality=95)
    preset = ImageClassification(crop_size=224, resize_size=224)
    image = Image.open("cat.jpg")
    torch.manual_seed(3)
    return {
        "model": Net().eval(),
        "weights": SimpleNamespace(transforms=lambda: preset),
        "tensor": preset(image)[None],
        "rgb_image": np.asarray(image, np.float32) / 255,
    }


def test_pytorch_grad_cam(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_grad_cam")
    theirs, image, tensors = code("From pytorch-grad-cam")
    monkeypatch.setattr(Image.Image, "show", lambda self: None)
    exec(theirs, names)
    expected, picture = names["saliency_map"], names["picture"]
    assert expected.max() > 0.9
    exec(image, names)
    np.testing.assert_allclose(names["explained"].saliency_map, expected, atol=1e-4)
    # Below the caption, for which it is enlarged twice.
    ours = names["picture"][-448::2, ::2].astype(float)
    assert np.abs(ours / ours.max() * 255 - picture).mean() < 3
    exec(tensors, names)
    np.testing.assert_allclose(names["saliency_map"][0, 0], expected, atol=1e-4)
    assert names["classes"].tolist() == [[281]]


def test_torchcam(names: dict[str, Any]) -> None:
    pytest.importorskip("torchcam")
    theirs, ours = code("From TorchCAM")
    exec("from camcore.export import explain", names)
    exec(theirs, names)
    expected = names["maps"][0]
    exec(ours, names)
    torch.testing.assert_close(names["maps"][0], expected, atol=1e-4, rtol=0)


def test_captum(names: dict[str, Any]) -> None:
    pytest.importorskip("captum")
    theirs, ours = code("From Captum")
    exec("import torch\nfrom camcore.export import explain", names)
    exec(theirs.replace("(224, 224))", "(224, 224), interpolate_mode='bilinear')"), names)
    expected = names["maps"].detach()[:, 0]
    assert expected.abs().max() > 0
    exec(ours, names)
    torch.testing.assert_close(
        names["maps"][:, 0], expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-3
    )
