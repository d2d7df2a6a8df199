"""Guided backpropagation and Guided Grad-CAM: in the graph, in the files, and beside the peers."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import camcore
from camcore.errors import ExportError, InputError
from camcore.export import Explained, explain, save
from tests.camcore import references
from tests.export.conftest import LAYER
from tests.export.eager import eagerly
from tests.export.models import EXAMPLE, Classifier, build, images
from tests.export.oracle import in_turn, run_any_file, run_one, worst_error

pytestmark = pytest.mark.usefixtures("shared_traces")
METHODS: dict[str, dict[str, Any]] = {"guided-backprop": {}, "guided-gradcam": {"layer": LAYER}}


class Guided(nn.Module):
    """A ReLU that a user who changes the model's modules would put in: forward as ever."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clamp(min=0)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.clamp(min=0))
        return y


def surgically(model: nn.Module) -> nn.Module:
    """A copy in double precision whose ReLUs are exchanged; it must have no functional one."""
    twin = deepcopy(model).double()
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, Guided())
    return twin


def by_hand(method: str, model: nn.Module, image: Tensor, ids: Tensor) -> np.ndarray:
    """One image and one class at a time."""
    guided, plain = surgically(model), deepcopy(model).double()
    maps = np.zeros((len(image), ids.shape[1], *image.shape[2:]))
    for n, one in enumerate(image.double()):
        for k, c in enumerate(ids.expand(len(image), -1)[n].tolist()):
            leaf = one[None].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(guided(leaf)[0, c], leaf)
            raw = gradient[0].sum(dim=0).numpy()
            if method == "guided-gradcam":
                scores, a, delta = run_one(plain, LAYER, one[None])
                (g,) = torch.autograd.grad(scores[0, c], delta)
                flat = a.reshape(len(a), -1), g[0].numpy().reshape(len(a), -1)
                coarse = np.maximum(references.gradcam(*flat), 0).reshape(a.shape[1:])
                raw = raw * references.resize(coarse / coarse.max(), raw.shape)
            maps[n, k] = references.postprocess(raw, None)
    return maps


@pytest.fixture(scope="module", params=METHODS)
def guided(request: pytest.FixtureRequest, small_net: nn.Module) -> tuple[str, Explained]:
    options = METHODS[request.param]
    return request.param, explain(small_net, EXAMPLE, method=request.param, **options)


@pytest.mark.parametrize("shape", [(3, 24, 24), (1, 17, 40)])
def test_maps(guided: Any, small_net: nn.Module, shape: tuple[int, ...]) -> None:
    method, explained = guided
    image, ids = images(1, *shape), torch.tensor([[4, 0, 1]])
    given = explained(image, ids).saliency_map
    assert given.shape == (shape[0], 3, *shape[1:])
    assert worst_error(given.numpy(), by_hand(method, small_net, image, ids)) < 1e-4
    plain = explain(small_net, EXAMPLE, method="gradcam", layer=LAYER)(image, ids).saliency_map
    assert (given - plain).abs().max() > 0.1


@pytest.mark.parametrize(
    ("guided", "suffix"), in_turn(METHODS, [".onnx", ".pt", ".pt2"]), indirect=["guided"]
)
def test_files(guided: Any, suffix: str, small_net: nn.Module, tmp_path: Path) -> None:
    """Other content, batch size, size and classes than at the export, and than at its proof."""
    method, explained = guided
    cases = (
        (images(5, 3, 30, 20), torch.tensor([[1, -1]])),
        (images(6, 1, 24, 24), torch.tensor([[3, 0, 2]])),
    )
    path = tmp_path / f"model{suffix}"
    card = save(explained, path)
    assert card.proof["worst_relative_error"] < 1e-4
    for image, ids in cases:
        scores, classes, maps = run_any_file(path, image, ids).values()
        assert worst_error(scores, small_net(image).detach().numpy()) < 1e-4
        expected = by_hand(method, small_net, image, torch.as_tensor(classes))
        assert worst_error(maps, expected) < 1e-4


def test_the_card(guided: Any) -> None:
    method, explained = guided
    assert explained.card.layer == {"guided-backprop": "the image"}.get(method, LAYER)


def test_the_gradient_itself_is_not_guided(small_net: nn.Module) -> None:
    """Of one trace come plain gradients at the layer and guided ones at the image."""
    image = images(1, 2, 24, 24)
    explained = explain(small_net, EXAMPLE, method="guided-gradcam", layer=LAYER)
    body: Any = explained.body
    _, ((_, activations), saved, _) = body.observe((image,))
    _, found = body.backward_pass(torch.tensor([1, 1]), *saved)
    scores, activation, delta = run_one(small_net, LAYER, image[:1])
    (expected,) = torch.autograd.grad(scores[0, 1], delta)
    np.testing.assert_allclose(activations[0], activation, atol=1e-5)
    torch.testing.assert_close(found[:1], expected)
    assert expected.min() < 0


def test_smoothing_by_augmentation(guided: Any, small_net: nn.Module) -> None:
    method, plain = guided
    image, ids = images(1, 2, 24, 31), torch.tensor([[4, 1]])
    explained = explain(small_net, EXAMPLE, method=method, aug_smooth=True, **METHODS[method])
    expected = torch.stack(
        [plain(image * b, ids).saliency_map for b in (0.9, 1.0, 1.1)]
        + [plain(image.flip(3) * b, ids).saliency_map.flip(3) for b in (0.9, 1.0, 1.1)]
    ).mean(dim=0)
    torch.testing.assert_close(explained(image, ids).saliency_map, expected, rtol=0, atol=1e-5)
    eager = eagerly(explained, (image,), ids).saliency_map
    torch.testing.assert_close(eager, expected, rtol=0, atol=1e-5)


def test_other_activations_keep_their_gradients() -> None:
    """ReLU6 among them, as with Captum and pytorch-grad-cam."""
    features = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Conv2d(6, 6, 3), nn.GELU(), nn.Conv2d(6, 6, 3), nn.ReLU()
    )
    model = build(lambda: Classifier(features, 6))
    image, ids = images(2, 2, 20, 24), torch.tensor([[2, 3]])
    given = explain(model, EXAMPLE, method="guided-backprop")(image, ids).saliency_map
    expected = by_hand("guided-backprop", model, image, ids)
    assert worst_error(given.numpy(), expected) < 1e-4


def test_a_target_that_tells_classes_apart(small_net: nn.Module) -> None:
    for target in ("rest", "finer"):
        explained = explain(small_net, EXAMPLE, method="guided-gradcam", layer=LAYER, target=target)
        image, ids = images(2, 2, 20, 24), torch.tensor([[2, 3]])
        given = explained(image, ids).saliency_map
        eager = eagerly(explained, (image,), ids).saliency_map
        torch.testing.assert_close(given, eager, rtol=0, atol=1e-4)
        assert given.max() > 0.9


def test_a_model_without_a_relu_is_refused() -> None:
    features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Threshold(0.1, 0.0))
    model = build(lambda: Classifier(features, 6))
    for method in METHODS:
        with pytest.raises(ExportError, match="the model has no ReLU"):
            explain(model, EXAMPLE, method=method)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "guided-backprop", "layer": "top"}, "takes no layer"),
        ({"method": "guided-gradcam", "layer": ["top", LAYER]}, "takes one layer"),
        ({"method": "guided-gradcam", "full_size": False}, "at image size: leave full_size on"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], match: str, small_net: nn.Module
) -> None:
    with pytest.raises(InputError, match=match):
        explain(small_net, EXAMPLE, **options)


def test_the_reference_leaves_the_model_as_it_is(guided: Any, small_net: nn.Module) -> None:
    _, explained = guided
    image = images(1, 1, 24, 24)
    before = small_net(image)
    eagerly(explained, (image,), torch.tensor([[1]]))
    leaf = torch.ones(1, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.relu(leaf), leaf, -torch.ones(1))
    assert gradient == -1
    assert torch.equal(small_net(image), before)
    assert not any(module._forward_hooks for module in small_net.modules())


def torchvision_model(name: str) -> nn.Module:
    """ReLUs that work on copies and are called once, else Captum's hooks fail."""
    torchvision: Any = pytest.importorskip("torchvision")
    model: nn.Module = build(getattr(torchvision.models, name), shape=(3, 64, 64))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


class Twice(nn.Module):
    """A residual block of ResNet with a ReLU of its own for each call."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.inner = nn.Sequential(block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2)
        self.passing = block.downsample or nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.inner(x) + self.passing(x))  # type: ignore[no-any-return]


def with_relus_of_their_own(model: nn.Module) -> nn.Module:
    twin = deepcopy(model)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "BasicBlock":
                setattr(module, name, Twice(child))
    return twin


IDS = [5, 77]


@pytest.fixture(
    scope="module",
    params=[
        "resnet18-layer3",
        pytest.param("alexnet-features.10", marks=pytest.mark.slow),
    ],
)
def large(request: pytest.FixtureRequest) -> tuple[nn.Module, str, Tensor]:
    name, _, layer = request.param.partition("-")
    return torchvision_model(name), layer, images(3, 2, 96, 80)


def mine(method: str, large: Any) -> np.ndarray:
    model, layer, image = large
    options = {} if method == "guided-backprop" else {"layer": layer}
    explained = explain(model, torch.zeros(1, 3, 96, 96), method=method, relu=False, **options)
    maps: np.ndarray = explained(image, torch.tensor(IDS)[:, None]).saliency_map[:, 0].numpy()
    return maps


def stretched(gradients: Any) -> Any:
    """Gradients (B, C, *S) of a peer as maps, stretched twice as all maps are."""
    return camcore.normalize(camcore.normalize(gradients.sum(1)))


@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor 0 did not")
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_maps_are_those_of_captum(method: str, large: Any) -> None:
    captum: Any = pytest.importorskip("captum.attr", reason="captum 0.9.0 is not installed")
    model, layer, image = large
    twin = with_relus_of_their_own(model)
    if method == "guided-backprop":
        found = captum.GuidedBackprop(twin).attribute(image.clone(), target=IDS)
    else:
        peer = captum.GuidedGradCam(twin, twin.get_submodule(layer))
        found = peer.attribute(image.clone(), target=IDS, interpolate_mode="bilinear")
        found = found / found.abs().amax(dim=(1, 2, 3), keepdim=True)
    np.testing.assert_allclose(mine(method, large), stretched(found.detach()), rtol=0, atol=1e-4)


def test_the_maps_are_those_of_pytorch_grad_cam(large: Any) -> None:
    peer: Any = pytest.importorskip("pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed")
    model, _, image = large
    found = [
        peer.GuidedBackpropReLUModel(deepcopy(model), "cpu")(one[None].clone(), c)
        for one, c in zip(image, IDS, strict=True)
    ]
    given = mine("guided-backprop", large)
    expected = stretched(np.stack(found).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)
