"""What every body does: the mean over variants of the image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.export import explain, save
from tests.camcore import references
from tests.export.models import EXAMPLE, build, images
from tests.export.oracle import TOLERANCE, fast_in, maps_by_hand, run_any_file, worst_error
from tests.export.smoothing import IDS, LAYER, features, logit, maps_of_peer
from tests.export.test_request import EIGEN

pytestmark = pytest.mark.usefixtures("shared_traces")


def six_variants(model: nn.Module, image: Tensor, weighted: Any, ids: Any = IDS) -> np.ndarray:
    """The mean of the maps of each, turned back."""
    maps = []
    for brightness in (0.9, 1.0, 1.1):
        maps.append(
            maps_by_hand(model, [LAYER], [image * brightness], ids, logit, weighted=weighted)
        )
        mirrored = image.flip(3) * brightness
        maps.append(
            maps_by_hand(model, [LAYER], [mirrored], ids, logit, weighted=weighted)[..., ::-1]
        )
    return np.mean(maps, axis=0)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build(features)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "activation"])
def test_aug_smooth(model: nn.Module, method: str) -> None:
    weighted = getattr(references, method)
    if method == "activation":
        weighted = lambda a, g: references.activation(a)  # noqa: E731
    image = images(2, 3, 28, 20)
    explained = explain(model, EXAMPLE, method=method, layer=LAYER, aug_smooth=True)
    given = explained(image, torch.tensor(IDS))
    expected = six_variants(model, image, weighted)
    torch.testing.assert_close(given.scores, model(image), rtol=1e-5, atol=1e-6)
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    assert np.abs(expected[0] - expected[1]).max() > 0.05
    plain = maps_by_hand(model, [LAYER], [image], IDS, logit, weighted=weighted)
    assert np.abs(plain - expected).max() > 0.01
    assert explained.card.options["aug_smooth"] is True


def test_aug_smooth_explains_the_best_class_of_the_plain_image(model: nn.Module) -> None:
    image = images(2, 2, 24, 24)
    given = explain(model, EXAMPLE, layer=LAYER, aug_smooth=True)(image, torch.tensor([[-1, -1]]))
    assert torch.equal(given.classes, model(image).topk(2).indices)
    expected = six_variants(model, image, references.gradcam, given.classes.tolist())
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
def test_both_in_a_file(model: nn.Module, suffix: str, tmp_path: Path) -> None:
    explained = explain(model, EXAMPLE, layer=LAYER, aug_smooth=True, eigen_smooth=True)
    save(explained, tmp_path / f"model{suffix}")
    image = images(3, 3, 20, 28)
    scores, _, maps = run_any_file(tmp_path / f"model{suffix}", image, torch.tensor(IDS)).values()
    assert worst_error(scores, model(image).detach().numpy()) < 1e-5
    assert worst_error(maps, six_variants(model, image, EIGEN["gradcam"])) < TOLERANCE
    assert np.abs(maps[0, 0] - maps[1, 1]).max() > 0.05


def test_aug_smooth_repeats_the_other_inputs() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, 2)
            self.fc = nn.Linear(6, 5)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            x = (self.conv(x).tanh() * scale[:, :, None, None]).tanh()
            return self.fc((x**2).mean((2, 3)))  # type: ignore[no-any-return]

    model = build(Scaled)
    scale = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    image = images(2, 3, 24, 24)
    explained = explain(model, (EXAMPLE, scale[:1]), layer="conv", aug_smooth=True)
    given = explained(image, scale, torch.tensor(IDS))
    maps = []
    for brightness in (0.9, 1.0, 1.1):
        inputs = image * brightness, scale
        maps.append(maps_by_hand(model, ["conv"], inputs, IDS, logit))
        inputs = image.flip(3) * brightness, scale
        maps.append(maps_by_hand(model, ["conv"], inputs, IDS, logit)[..., ::-1])
    assert worst_error(given.saliency_map.numpy(), np.mean(maps, axis=0)) < TOLERANCE


def test_aug_smooth_at_feature_size_and_without_scaling(model: nn.Module) -> None:
    """The mean over six raw maps has the raw map's unit."""
    options: dict[str, Any] = {
        "layer": LAYER,
        "full_size": False,
        "normalize": False,
        "relu": False,
    }
    image, ids = images(2, 2, 24, 24), torch.tensor([[1, 2]])
    plain = explain(model, EXAMPLE, **options)
    expected = torch.stack(
        [plain(image * b, ids).saliency_map for b in (0.9, 1.0, 1.1)]
        + [plain(image.flip(3) * b, ids).saliency_map.flip(3) for b in (0.9, 1.0, 1.1)]
    ).mean(dim=0)
    given = explain(model, EXAMPLE, aug_smooth=True, **options)(image, ids).saliency_map
    assert given.shape[2:] == (11, 11)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "xgradcam", "layercam"])
def test_aug_smooth_as_pytorch_grad_cam(model: nn.Module, method: str, peer: Any) -> None:
    image = images(2, 3, 28, 20)
    explained = explain(model, EXAMPLE, method=method, layer=LAYER, aug_smooth=True)
    given = explained(image, torch.tensor(IDS)).saliency_map[:, 0]
    expected = maps_of_peer(peer, model, method, image, aug_smooth=True)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)
