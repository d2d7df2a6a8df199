import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from camcore.adapters import ImageExplainer, ImageExplanation, explain_image
from camcore.adapters.images import prepare, read_image
from camcore.adapters.overlay import heatmap
from camcore.errors import FileError, InputError, UnknownNameError
from camcore.export import ImageSpec, explain

pytorch_grad_cam: ModuleType = pytest.importorskip(
    "pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"
)
image_utils = pytest.importorskip("pytorch_grad_cam.utils.image")
model_targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")

SPEC = ImageSpec(None, None, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), resize=40, crop=(36, 36))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()
        )
        self.fc = nn.Linear(12, 5)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.features(image).mean((2, 3)))
        return scores


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(5)
    return Net().eval()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Broad spots, so that resizing leaves something of it."""
    rng = np.random.default_rng(2)
    spots = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    spots.resize((60, 50), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def shown(model: nn.Module, photo: Path) -> ImageExplanation:
    return explain_image(model, photo, image_spec=SPEC)


def peer_map(model: Any, photo: Path, method: str, class_id: int | None) -> NDArray[Any]:
    tensor = torch.from_numpy(prepare(read_image(photo), SPEC)[0])
    targets = None if class_id is None else [model_targets.ClassifierOutputTarget(class_id)]
    with getattr(pytorch_grad_cam, method)(model, [model.features]) as cam:
        maps: NDArray[Any] = cam(tensor, targets)
    assert maps.max() > 0.9
    return maps[0]


def test_defaults_are_those_of_pytorch_grad_cam(
    model: nn.Module, photo: Path, shown: ImageExplanation
) -> None:
    """The layer is the last on the image's grid, the class the best one, the map in [0, 1]."""
    assert shown.card.layer == "features"
    saliency_map = shown.explanation.saliency_map[0, 0]
    np.testing.assert_allclose(saliency_map, peer_map(model, photo, "GradCAM", None), atol=1e-5)


def test_other_methods_and_classes(model: nn.Module, photo: Path) -> None:
    given = explain_image(
        model, photo, method="layercam", layer="features", classes=[3, 0], image_spec=SPEC
    )
    for saliency_map, class_id in zip(given.explanation.saliency_map[0], (3, 0), strict=True):
        expected = peer_map(model, photo, "LayerCAM", class_id)
        np.testing.assert_allclose(saliency_map, expected, atol=1e-5)
    assert [entry["class"] for entry in given.explained] == [3, 0]
    assert given.saliency_maps.shape == (2, 50, 60)


def test_colours_are_those_of_show_cam_on_image(photo: Path) -> None:
    """But for the brightness, which the peer sets so that the brightest pixel is white."""
    image = read_image(photo)
    # Levels that both round alike.
    levels = np.arange(50 * 60).reshape(50, 60) % 256
    ours = heatmap(image, levels / 255).astype(float)
    mask = (levels + 1e-3) / 255  # the peer cuts off
    peer = image_utils.show_cam_on_image(image / np.float32(255), mask, use_rgb=True)
    np.testing.assert_allclose(ours * 255 / ours.max(), peer, atol=2)


def test_what_is_told_of_the_image(model: nn.Module, photo: Path, shown: ImageExplanation) -> None:
    array, placement = prepare(read_image(photo), SPEC)
    with torch.no_grad():
        scores = model(torch.from_numpy(array))[0]
    best = int(scores.argmax())
    assert [entry["class"] for entry in shown.predictions] == scores.argsort(
        descending=True
    ).tolist()
    assert shown.predictions[0]["score"] == pytest.approx(float(scores[best]), rel=1e-5)
    probability = float(scores.softmax(0)[best])
    assert shown.predictions[0]["probability"] == pytest.approx(probability, rel=1e-5)
    expected = placement.map_to_original(shown.explanation.saliency_map[0, 0])
    np.testing.assert_array_equal(shown.saliency_map, expected)
    assert f"gradcam of Net at features, image 50 x 60: {best} {probability:.1%}" in repr(shown)


def test_pictures(shown: ImageExplanation, tmp_path: Path) -> None:
    picture = shown.overlay(colormap="viridis", opacity=1)
    plain = heatmap(shown.image, shown.saliency_map, colormap="viridis", opacity=1)
    factor = picture.shape[1] // 60
    np.testing.assert_array_equal(picture[-50 * factor :: factor, ::factor], plain)
    shown.save(tmp_path / "o.png")
    encoded = np.asarray(Image.open(BytesIO(shown._repr_png_())))
    np.testing.assert_array_equal(encoded, shown.overlay())
    np.testing.assert_array_equal(read_image(tmp_path / "o.png"), shown.overlay())


def test_show_opens_a_window(shown: ImageExplanation, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(Image.Image, "show", lambda self: opened.append(np.asarray(self)))
    shown.show()
    np.testing.assert_array_equal(opened[0], shown.overlay())


def test_images_of_one_size_share_a_trace(
    model: nn.Module,
    photo: Path,
    shown: ImageExplanation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same image in any form gives the same; one of another size is traced anew."""
    traces = []
    monkeypatch.setattr(
        "camcore.export.explain", lambda *a, **k: traces.append(a[1].shape) or explain(*a, **k)
    )
    explainer = ImageExplainer(model, image_spec=replace(SPEC, crop=None))
    pixels = read_image(photo)
    first = explainer(str(photo))
    for image in (pixels, pixels / 255, Image.open(photo)):
        np.testing.assert_array_equal(explainer(image).saliency_map, first.saliency_map)
    assert traces == [(1, 3, 40, 48)]
    explainer(pixels[:, :50])
    assert traces == [(1, 3, 40, 48), (1, 3, 40, 40)]


def test_torchvisions_preset_is_a_spec(model: nn.Module, photo: Path) -> None:
    preset = ImageClassification(crop_size=36, resize_size=40, mean=SPEC.mean, std=SPEC.std)
    given = explain_image(model, photo, image_spec=preset)
    with torch.no_grad():
        expected = model(preset(Image.open(photo))[None]).numpy()
    np.testing.assert_allclose(given.explanation.scores, expected, atol=1e-4)


def test_what_a_model_says_of_itself_is_taken(photo: Path, shown: ImageExplanation) -> None:
    torch.manual_seed(5)
    net = Net().eval()
    net.image_spec = SPEC  # type: ignore[assignment]
    net.names = {0: "cat", 1: "dog", 2: "owl", 3: "cow", 4: "hen"}  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = explain_image(net, photo, classes="Owl")
    assert given.explained[0]["name"] == "owl"
    np.testing.assert_allclose(given.explanation.scores, shown.explanation.scores, atol=1e-6)
    with pytest.raises(UnknownNameError, match=r"unknown class 'ow'; nearest: .*owl"):
        explain_image(net, photo, classes="ow")


def test_what_is_assumed_is_told(model: nn.Module, photo: Path) -> None:
    with pytest.warns(UserWarning, match=r"assumed: mean 0.485 .* shorter side to 224.*image_spec"):
        given = explain_image(model, photo)
    assert given.explanation.saliency_map.shape == (1, 1, 224, 224)


def test_the_model_stays_as_it_is(model: nn.Module, photo: Path) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    explain_image(model, photo, image_spec=SPEC)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (torch.zeros(1, 3, 8, 8), {}, "image is Tensor; expected a path.*camcore.export.explain"),
        (np.zeros((8, 8), np.uint8), {}, r"image is uint8 \(8, 8\); expected"),
        (np.full((8, 8, 3), 7.0), {}, "from 7.0 to 7.0; expected"),
        (np.zeros((8, 8, 3), np.uint8), {"pixels": True}, "pixels is for files"),
        (np.zeros((8, 8, 3), np.uint8), {"image_spec": 5}, "image_spec is int; expected"),
    ],
)
def test_what_does_not_fit(model: nn.Module, image: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain_image(model, image, **{"image_spec": SPEC} | options)


def test_missing_image(model: nn.Module) -> None:
    with pytest.raises(FileError, match=r"none.png does not exist"):
        explain_image(model, "none.png", image_spec=SPEC)


def test_detectors_are_for_explain() -> None:
    import torchvision

    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ).eval()
    with pytest.raises(InputError, match="explain_image is for classifiers"):
        explain_image(detector, np.zeros((8, 8, 3), np.uint8))
