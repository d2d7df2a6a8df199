"""What families share: several layers become one map, wherever they lie."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError, InputError, UnknownNameError
from camcore.export import explain, save
from camcore.methods import METHODS
from tests.camcore import references
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, build, images
from tests.export.oracle import TOLERANCE, in_turn, maps_by_hand, run_any_file, worst_error
from tests.export.pass_oracle import Place, maps_of_passes
from tests.export.trace.test_targets import finer

pytestmark = pytest.mark.usefixtures("shared_traces")
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "feature size of several layers": ({"layer": [LAYER, "top"], "full_size": False}, "full_size"),
    "a way to combine that there is not": ({"combine": "meen"}, "one of .*mean.*got 'meen'"),
    "components of components": ({"method": "eigencam", "eigen_smooth": True}, "eigen_smooth"),
    "noise and variants": ({"method": "smoothgradcam++", "aug_smooth": True}, "adds noise"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_do_not_go_together(name: str, small_net: nn.Module) -> None:
    options, match = REFUSED[name]
    with pytest.raises(InputError, match=match):
        explain(small_net, EXAMPLE, **options)


IDS = [[4, 0], [2, 4], [1, 3]]


class Branched(nn.Module):
    """A stem, two branches of different strides, what joins them, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh())
        self.left = nn.Conv2d(6, 5, 3, padding=1)
        self.right = nn.Sequential(nn.Conv2d(6, 4, 3, 2, 1), nn.Tanh())
        self.top = nn.Sequential(nn.Conv2d(9, 8, 3, padding=1), nn.GELU())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = self.left(x).tanh(), self.right(x)
        right = nn.functional.interpolate(right, left.shape[2:], mode="nearest")
        x = self.top(torch.cat([left, right], dim=1))
        return self.fc((x**2).mean((2, 3)))  # type: ignore[no-any-return]


def logit(z: Tensor, c: int) -> Tensor:
    return z[0, c]


CHOICES = {
    "in sequence": ("stem", "top"),
    "in branches": ("left", "right"),
    "all over": ("stem", "right", "top"),
    "inside of each other": ("right.0", "right", "stem.0"),
    "four": ("stem", "left", "right", "top"),
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build(Branched)


@pytest.mark.parametrize(("choice", "how"), in_turn(CHOICES, ["mean", "product", "max"]))
def test_eager(model: nn.Module, choice: str, how: Any) -> None:
    layers = CHOICES[choice]
    explained = explain(model, EXAMPLE, layer=layers, combine=how)
    image = images(2, 3, 28, 20)
    given = explained(image, torch.tensor(IDS))
    expected = maps_by_hand(model, layers, [image], IDS, logit, how=how)
    assert torch.equal(given.scores, model(image))
    assert given.saliency_map.shape == (3, 2, 28, 20)
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    assert np.abs(expected[0, 0] - expected[1, 1]).max() > 0.05
    assert explained.card.layer == ", ".join(layers)
    assert explained.card.num_classes == 5
    assert explained.card.options["combine"] == how
    for layer in layers:  # none of them is the whole
        alone = maps_by_hand(model, [layer], [image], IDS, logit)
        assert np.abs(alone - expected).max() > 0.01


@pytest.mark.parametrize(
    ("choice", "how", "suffix"),
    [
        pytest.param("four", "mean", ".onnx", marks=pytest.mark.slow),
        ("in branches", "product", ".onnx"),
        ("in sequence", "mean", ".pt"),
        pytest.param("all over", "product", ".pt2", marks=pytest.mark.slow),
    ],
)
def test_file(model: nn.Module, choice: str, how: Any, suffix: str, tmp_path: Path) -> None:
    layers, image = CHOICES[choice], images(3, 3, 20, 28)
    save(explain(model, EXAMPLE, layer=layers, combine=how), tmp_path / f"model{suffix}")
    scores, classes, maps = run_any_file(
        tmp_path / f"model{suffix}", image, torch.tensor(IDS)
    ).values()
    expected = maps_by_hand(model, layers, [image], IDS, logit, how=how)
    assert worst_error(scores, model(image).detach().numpy()) < 1e-5
    assert classes.tolist() == IDS
    assert worst_error(maps, expected) < TOLERANCE
    assert np.abs(maps[0, 0] - maps[1, 1]).max() > 0.05


def test_their_order_does_not_matter(model: nn.Module) -> None:
    image, ids = images(2, 2, 24, 24), torch.tensor([[-1, 2]])
    first, *others = [
        explain(model, EXAMPLE, layer=list(layers))(image, ids).saliency_map
        for layers in permutations(CHOICES["all over"])
    ]
    assert len(others) == 5
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "weighted"),
    [
        ("hirescam", references.hirescam),
        ("gradcam++", references.gradcam_plus_plus),
        ("eigencam", lambda a, g: references.first_component(a)),
        ("activation", lambda a, g: references.activation(a)),
    ],
)
def test_other_methods(model: nn.Module, method: str, weighted: Any) -> None:
    layers, image = CHOICES["all over"], images(2, 3, 24, 24)
    given = explain(model, EXAMPLE, method=method, layer=layers)(image, torch.tensor(IDS))
    expected = maps_by_hand(model, layers, [image], IDS, logit, weighted=weighted)
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE


PASSES = [
    pytest.param("scorecam", "all over", ".onnx", marks=pytest.mark.slow),
    pytest.param("ablationcam", "four", ".onnx", marks=pytest.mark.slow),
    ("reciprocam", "in branches", ".onnx"),
    ("ablationcam", "in sequence", ".pt"),
    pytest.param("scorecam", "in branches", ".pt2", marks=pytest.mark.slow),
]


def maps_of_their_passes(
    method: str, model: nn.Module, layers: Sequence[str], image: Tensor
) -> Any:
    size = tuple(image.shape[2:])
    by_layer = []
    for layer in layers:
        raw = maps_of_passes(
            method, model, Place(layer), (image,), IDS, normalize=False, full_size=False
        )
        rectified = np.maximum(raw, 0) if METHODS[method].relu else raw
        scaled = [[references.normalize(each) for each in row] for row in rectified]
        by_layer.append([[references.resize(each, size) for each in row] for row in scaled])
    total = np.mean(by_layer, axis=0)
    return np.array([[references.normalize(each) for each in row] for row in total])


@pytest.mark.parametrize(("method", "choice", "suffix"), PASSES)
def test_methods_of_many_passes(
    model: nn.Module, method: str, choice: str, suffix: str, tmp_path: Path
) -> None:
    """Each layer has passes of its own; their maps are combined like all others."""
    layers, image, ids = CHOICES[choice], images(2, 3, 28, 20), torch.tensor(IDS)
    expected = maps_of_their_passes(method, model, layers, image)
    # Drops of scores are small, and lose what single precision rounds.
    exact = explain(deepcopy(model).double(), EXAMPLE.double(), method=method, layer=layers)
    assert worst_error(exact(image.double(), ids).saliency_map.detach().numpy(), expected) < 1e-6
    file = tmp_path / f"model{suffix}"
    save(explain(model, EXAMPLE, method=method, layer=layers), file)
    scores, classes, maps = run_any_file(file, image, ids).values()
    assert worst_error(scores, model(image).detach().numpy()) < 1e-5
    assert classes.tolist() == IDS
    assert worst_error(maps, expected) < 2e-3
    assert np.abs(maps[0, 0] - maps[1, 1]).max() > 0.05
    for layer in layers:  # none of them is the whole
        alone = maps_of_their_passes(method, model, [layer], image)
        assert np.abs(alone - expected).max() > 0.01


@pytest.mark.parametrize(
    "method", ["scorecam", pytest.param("ablationcam", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_their_weights_are_stored_once(model: nn.Module, method: str, tmp_path: Path) -> None:
    """Each layer has a head and a tail of its own, of the same weights."""
    path = tmp_path / "model.onnx"
    save(explain(model, EXAMPLE, method=method, layer=CHOICES["in sequence"]), path)
    stored = onnx.load(path).graph.initializer
    values = [(tensor.name, onnx.numpy_helper.to_array(tensor)) for tensor in stored]
    for name, weight in model.named_parameters():
        same = [found for found, value in values if np.array_equal(value, weight.detach())]
        assert same == [name]


def test_another_target(model: nn.Module) -> None:
    """Its seed depends on the scores, which stand beside the layers inside the tail."""
    layers, image = CHOICES["four"], images(2, 3, 24, 24)
    given = explain(model, EXAMPLE, layer=layers, target="finer")(image, torch.tensor(IDS))
    expected = maps_by_hand(model, layers, [image], IDS, finer)
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE


def test_several_outputs() -> None:
    """The layers inside the tail are not among what the model returns."""

    class Several(Branched):
        def forward(self, x: Tensor) -> Any:
            z = super().forward(x)
            return {"log": z.log_softmax(1), "z": z, "few": z[:, :2]}

    model, layers, image = build(Several), CHOICES["in sequence"], images(2, 3, 24, 24)
    explained = explain(model, EXAMPLE, layer=layers, output="few")
    given, plain, ids = explained(image, torch.tensor([[1, 0]])), model(image), [[1, 0]] * 3
    assert explained.card.num_classes == 2
    assert given._fields == ("log", "z", "few", "classes", "saliency_map")
    assert all(torch.equal(getattr(given, name), plain[name]) for name in plain)
    expected = maps_by_hand(model, layers, [image], ids, lambda r, c: r["z"][0, c])
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE


def test_one_layer_in_a_list_is_that_layer(model: nn.Module) -> None:
    image = images(2, 2, 24, 24)
    maps = [
        explain(model, EXAMPLE, layer=layer)(image).saliency_map for layer in ("left", ["left"])
    ]
    assert torch.equal(*maps)


def test_no_layer_in_a_list_is_the_default(model: nn.Module) -> None:
    assert explain(model, EXAMPLE, layer=[]).card.layer == explain(model, EXAMPLE).card.layer


@pytest.mark.parametrize("layers", [["stem", "stem"], ["top", "left", "top"], ["top", "top.1"]])
def test_the_same_value_twice(model: nn.Module, layers: list[str]) -> None:
    with pytest.raises(InputError, match="return the same value: give each once"):
        explain(model, EXAMPLE, layer=layers)


def test_maps_of_different_sizes_are_not_combined(model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"maps of 2 layers have different sizes.*full_size"):
        explain(model, EXAMPLE, layer=["stem", "top"], full_size=False)
    assert explain(model, EXAMPLE, layer=["stem"], full_size=False)(EXAMPLE).saliency_map.shape[
        2:
    ] == (12, 12)


def test_one_of_them_does_not_exist(model: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match="unknown layer 'stemm'; nearest: stem"):
        explain(model, EXAMPLE, layer=["top", "stemm"])


def test_one_of_them_has_no_grid(model: nn.Module) -> None:
    with pytest.raises(ExportError, match=r"'fc' cannot be explained: .*no spatial axes"):
        explain(model, EXAMPLE, layer=["top", "fc"])


def test_an_unknown_way_to_combine(model: nn.Module) -> None:
    combine: Any = "maximum"
    with pytest.raises(InputError, match=r"one of .*'sum', 'max'\), got 'maximum'"):
        explain(model, EXAMPLE, layer=["stem", "top"], combine=combine)(EXAMPLE)


@pytest.mark.parametrize("choice", CHOICES)
def test_the_same_as_pytorch_grad_cam(model: nn.Module, choice: str) -> None:
    peer = pytest.importorskip("pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed")
    model_targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    image, layers, ids = images(2, 3, 28, 20), CHOICES[choice], [4, 0, 2]
    targets = [model_targets.ClassifierOutputTarget(c) for c in ids]
    with peer.GradCAM(model, [model.get_submodule(layer) for layer in layers]) as cam:
        expected = cam(image, targets)
    assert expected.max() > 0.9
    given = explain(model, EXAMPLE, layer=layers)(image, torch.tensor(ids)[:, None])
    np.testing.assert_allclose(given.saliency_map[:, 0], expected, rtol=0, atol=1e-4)


def test_many_passes_as_in_pytorch_grad_cam(model: nn.Module) -> None:
    peer = pytest.importorskip("pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed")
    model_targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    image, layers, ids = images(2, 3, 28, 20), CHOICES["all over"], [4, 0, 2]
    targets = [model_targets.ClassifierOutputTarget(c) for c in ids]
    with peer.ScoreCAM(model, [model.get_submodule(layer) for layer in layers]) as cam:
        expected = cam(image, targets)
    assert expected.max() > 0.9
    given = explain(model, EXAMPLE, method="scorecam", layer=layers, align_corners=True)
    maps = given(image, torch.tensor(ids)[:, None]).saliency_map[:, 0]
    np.testing.assert_allclose(maps.detach(), expected, rtol=0, atol=1e-4)
