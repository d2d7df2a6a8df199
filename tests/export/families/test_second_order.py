"""ShapleyCAM: second derivatives in the graph and in the files, beside autograd's own."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.ops import SqueezeExcitation

from camcore.errors import ExportError, InputError
from camcore.export import explain, save
from camcore.export.gradient import rules
from tests.camcore import references
from tests.export.conftest import LAYER
from tests.export.eager import eagerly
from tests.export.models import (
    EXAMPLE,
    NUM_CLASSES,
    Classifier,
    SmallNet,
    Transformer,
    build,
    images,
)
from tests.export.oracle import fast_in, run_any_file, run_one, worst_error

pytestmark = pytest.mark.usefixtures("shared_traces")
aten = torch.ops.aten


def rest(scores: Tensor, c: int) -> Tensor:
    return 2 * scores[0, c] - scores[0].logsumexp(0)


def tokens_first(value: np.ndarray) -> np.ndarray:
    """The patches of `Transformer`, (2 + 9, C), as (C, 3, 3)."""
    return value[2:].T.reshape(-1, 3, 3)


def by_hand(
    model: nn.Module,
    layer: str,
    image: Tensor,
    ids: Tensor,
    *,
    score: Any = rest,
    grid: Any = lambda value: value,
) -> np.ndarray:
    """One image and one class at a time, in double precision: w = mean_S(G - H A / 2)."""
    twin = deepcopy(model).double()
    ids = ids.expand(len(image), -1)
    maps = np.zeros((*ids.shape, *image.shape[2:]))
    for n, k in np.ndindex(*ids.shape):
        # Fused attention has no second derivatives.
        with sdpa_kernel(SDPBackend.MATH):
            scores, activation, delta = run_one(twin, layer, image[n : n + 1].double())
        (g,) = torch.autograd.grad(score(scores, int(ids[n, k])), delta, create_graph=True)
        (ha,) = torch.autograd.grad(g, delta, torch.from_numpy(activation)[None])
        a, g, ha = (grid(each) for each in (activation, g[0].detach().numpy(), ha[0].numpy()))
        assert np.abs(ha).max() > 1e-3 * np.abs(g).max()
        flat = a.reshape(len(a), -1)
        weights = references.gradcam_weights(flat, (g - ha / 2).reshape(len(a), -1))
        raw = references.weighted_sum(flat, weights).reshape(a.shape[1:])
        maps[n, k] = references.postprocess(raw, tuple(image.shape[2:]))
    return maps


def largest_difference(model: nn.Module, layer: str, image: Tensor, ids: Tensor) -> float:
    """Of ShapleyCAM's map and Grad-CAM's of the same target."""
    pair = [
        explain(model, EXAMPLE, method=method, layer=layer, target="rest")(image, ids).saliency_map
        for method in ("shapleycam", "gradcam")
    ]
    return float((pair[0] - pair[1]).abs().max())


@pytest.mark.parametrize("layer", ["top", LAYER, "stem.0"])
def test_maps(small_net: nn.Module, layer: str) -> None:
    explained = explain(small_net, EXAMPLE, method="shapleycam", layer=layer)
    for shape in ((3, 24, 24), (1, 17, 40), (2, 48, 9)):
        image, ids = images(1, *shape), torch.tensor([[4, 0, 1]])
        given = explained(image, ids).saliency_map
        assert given.amax(dim=(2, 3)).max() > 0.9
        assert worst_error(given.numpy(), by_hand(small_net, layer, image, ids)) < 1e-4


@pytest.mark.parametrize("layer", ["top", "stem"])
def test_they_are_not_those_of_gradcam(small_net: nn.Module, layer: str) -> None:
    image, ids = images(1, 3, 24, 24), torch.arange(NUM_CLASSES)[None]
    assert largest_difference(small_net, layer, image, ids) > 0.01


def test_a_linear_score_gives_gradcam(small_net: nn.Module) -> None:
    """Behind the last layer there is nothing but a mean and a product."""
    image, ids = images(1, 3, 24, 24), torch.tensor([[4, 0, 1]])
    pair = [
        explain(small_net, EXAMPLE, method=method, layer="top", target="logit")(image, ids)
        for method in ("shapleycam", "gradcam")
    ]
    assert pair[0].saliency_map.max() > 0.9
    torch.testing.assert_close(pair[0], pair[1])


class PlainHardSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6


class DirectHardSigmoid(nn.Module):
    """Called so that nobody sees it."""

    def forward(self, x: Tensor) -> Tensor:
        return aten.hardsigmoid(x)  # type: ignore[no-any-return]


def gated(hard: type[nn.Module]) -> nn.Module:
    """With squeeze and excitation, as MobileNet-v3 has it."""

    def make() -> nn.Module:
        gate = SqueezeExcitation(8, 8, activation=nn.Identity, scale_activation=hard)
        return Classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), gate), 8)

    return build(make)


def test_hard_sigmoids(tmp_path: Path) -> None:
    """PyTorch differentiates them once."""
    model, twin = gated(nn.Hardsigmoid), gated(PlainHardSigmoid)
    explained = explain(model, EXAMPLE, method="shapleycam", layer="features.0")
    save(explained, tmp_path / "model.pt")
    image, ids = images(1, 3, 24, 24), torch.tensor([[4, 0, 1]])
    expected = by_hand(twin, "features.0", image, ids)
    assert worst_error(explained(image, ids).saliency_map.numpy(), expected) < 1e-4


def test_second_derivatives_that_pytorch_does_not_have() -> None:
    model = gated(DirectHardSigmoid)
    explained = explain(model, EXAMPLE, method="shapleycam", layer="features.0")
    with pytest.raises(ExportError, match="no second derivatives of the model"):
        eagerly(explained, [images(1, 2, 24, 24)], torch.tensor([[0]]))


@pytest.mark.parametrize("suffix", fast_in(".pt2"))
def test_files(suffix: str, small_net: nn.Module, tmp_path: Path) -> None:
    explained = explain(small_net, EXAMPLE, method="shapleycam", layer=LAYER)
    cases = (
        (images(5, 3, 30, 20), torch.tensor([[1, -1]])),
        (images(6, 1, 24, 24), torch.tensor([[3, 0, 2]])),
    )
    path = tmp_path / f"model{suffix}"
    card = save(explained, path)
    assert card.proof["worst_relative_error"] < 1e-4
    assert card.options["target"] == "rest"
    for image, ids in cases:
        scores, classes, maps = run_any_file(path, image, ids).values()
        assert worst_error(scores, small_net(image).detach().numpy()) < 1e-4
        expected = by_hand(small_net, LAYER, image, torch.as_tensor(classes))
        assert worst_error(maps, expected) < 1e-4


def test_weights_are_stored_once(small_net: nn.Module) -> None:
    explained = explain(small_net, EXAMPLE, method="shapleycam", layer="stem")
    own = {tensor.data_ptr() for tensor in small_net.state_dict().values()}
    large = [tensor for tensor in explained.state_dict().values() if tensor.numel() > 1]
    assert large
    assert {tensor.data_ptr() for tensor in large} <= own


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".pt2", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_transformer(suffix: str, tmp_path: Path) -> None:
    """GELU, softmax, layer normalisation, whose statistics have derivatives as well."""
    model, path = build(Transformer), tmp_path / f"model{suffix}"
    save(explain(model, EXAMPLE, method="shapleycam", layer="blocks.0"), path)
    image, ids = images(5, 3, 24, 24), torch.tensor([[1, 4]])
    maps = run_any_file(path, image, ids).popitem()[1]
    expected = by_hand(model, "blocks.0", image, ids, grid=tokens_first)
    assert worst_error(maps, expected) < 1e-4


class Bent(nn.Module):
    """Operators with curvature of many kinds, and some whose gradient is a scatter or a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 8, 3, stride=2, groups=2)
        self.back = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.norm = nn.GroupNorm(2, 6)
        self.depthwise = nn.Conv2d(6, 6, 3, stride=(1, 2), padding=1, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.gelu(self.depthwise(F.gelu(x))), 2, stride=1)
        x = F.silu(self.back(F.softplus(self.conv(x))))
        x = self.norm(x[:, :, 1:]) * x[:, :, :1].sigmoid()
        x = F.avg_pool2d(F.elu(x), 2) + F.adaptive_avg_pool2d(F.hardswish(x), 1)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear").tanh().pow(3)


@pytest.mark.parametrize("free", [pytest.param(True, marks=pytest.mark.slow), False])
def test_operators_with_curvature(free: bool) -> None:
    model = build(lambda: Classifier(nn.Sequential(nn.Conv2d(3, 6, 3), Bent()), 6))
    how: dict[str, Any] = {"method": "shapleycam", "layer": "features.0", "dynamic_size": free}
    explained = explain(model, EXAMPLE, **how)
    for shape in ((3, 24, 24), (2, 17, 30) if free else (2, 24, 24)):
        image, ids = images(1, *shape), torch.tensor([[4, 0, 1]])
        expected = by_hand(model, "features.0", image, ids)
        assert worst_error(explained(image, ids).saliency_map.numpy(), expected) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["layer4", "layer2"])
def test_resnet18(layer: str) -> None:
    torchvision: Any = pytest.importorskip("torchvision")
    model = build(torchvision.models.resnet18, shape=(3, 64, 64))
    explained = explain(model, torch.zeros(1, 3, 64, 64), method="shapleycam", layer=layer)
    image, ids = images(1, 2, 96, 80), torch.tensor([[4, 700]])
    expected = by_hand(model.double(), layer, image, ids)
    given = eagerly(explained, (image.double(),), ids).saliency_map
    assert worst_error(given.numpy(), expected) < 1e-6
    # In double precision, where no ReLU is a rounding error away from its kink.
    explained = explain(model, torch.zeros(1, 3, 64, 64).double(), method="shapleycam", layer=layer)
    given = explained(image.double(), ids).saliency_map
    assert worst_error(given.numpy(), expected) < 1e-6


@pytest.mark.parametrize("target", ["probability", "binary"])
def test_another_target(target: str) -> None:
    def make() -> nn.Module:
        model = SmallNet()
        model.fc = nn.Sequential(nn.Linear(12, 1 if target == "binary" else NUM_CLASSES), nn.Tanh())
        return model

    model = build(make)
    explained = explain(model, EXAMPLE, method="shapleycam", layer="top", target=target)
    image, ids = images(1, 2, 24, 24), torch.tensor([[1, 0]])

    def score(scores: Tensor, c: int) -> Tensor:
        return (2 * c - 1) * scores[0, 0] if target == "binary" else scores.softmax(1)[0, c]

    given = explained(image, ids).saliency_map.numpy()
    assert worst_error(given, by_hand(model, "top", image, ids, score=score)) < 1e-4


def test_smoothing_by_augmentation_and_by_components(small_net: nn.Module) -> None:
    options = {"method": "shapleycam", "layer": LAYER}
    plain = explain(small_net, EXAMPLE, **options)  # type: ignore[arg-type]
    image, ids = images(1, 2, 24, 31), torch.tensor([[4, 1]])
    for how in ("aug_smooth", "eigen_smooth"):
        explained = explain(small_net, EXAMPLE, **options, **{how: True})  # type: ignore[arg-type]
        given = explained(image, ids).saliency_map
        eager = eagerly(explained, (image,), ids).saliency_map
        torch.testing.assert_close(given, eager, rtol=0, atol=1e-4)
        assert (given - plain(image, ids).saliency_map).abs().max() > 0.05


def test_the_maps_are_those_of_pytorch_grad_cam(small_net: nn.Module) -> None:
    peer: Any = pytest.importorskip("pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed")
    targets: Any = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    image, ids = images(1, 3, 32, 40), [4, 0, 2]
    for layer in ("top", LAYER):
        explained = explain(small_net, EXAMPLE, method="shapleycam", layer=layer)
        given = explained(image, torch.tensor(ids)[:, None]).saliency_map[:, 0]
        twin = deepcopy(small_net)
        with peer.ShapleyCAM(twin, [twin.get_submodule(layer)]) as cam:
            expected = cam(image.clone(), [targets.ClassifierOutputReST(c) for c in ids])
        np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer": ["top", LAYER]}, "takes one layer"),
        ({"layer": "top", "target": "finer"}, "the target 'finer' has none"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], match: str, small_net: nn.Module
) -> None:
    with pytest.raises(InputError, match=match):
        explain(small_net, EXAMPLE, method="shapleycam", **options)


class Gated(nn.Module):
    """What it is weighted with has, on purpose, no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() * x.detach().sigmoid()


def test_a_detached_value_is_refused_with_its_module() -> None:
    model = build(lambda: Classifier(nn.Sequential(nn.Conv2d(3, 6, 3), Gated()), 6))
    explain(model, EXAMPLE, method="gradcam", layer="features.0")
    with pytest.raises(ExportError, match=r"detached, as by features\.1\."):
        explain(model, EXAMPLE, method="shapleycam", layer="features.0")


def test_an_operator_without_a_second_derivative_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose own gradient holds an operator without a rule."""

    def rule(grad: Tensor, y: Tensor) -> Tensor:
        grid = torch.zeros(1, 2, 2, 2).expand(y.shape[0], 2, 2, 2)
        return (
            grad * (1 - y * y) * F.grid_sample(y, grid, mode="bicubic", align_corners=False).mean()
        )

    features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh())
    model = build(lambda: Classifier(features, 6))
    monkeypatch.setitem(rules.RULES, aten.tanh_backward.default, rule)
    explain(model, EXAMPLE, method="gradcam", layer="features.0")
    with pytest.raises(ExportError, match=r"no gradient rule .*grid_sampler_2d_backward"):
        explain(model, EXAMPLE, method="shapleycam", layer="features.0")
