"""Targets: the maps are those of the formula that the target's name stands for."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.errors import ExportError, InputError, UnknownNameError
from camcore.export import Explained, explain, save
from camcore.export.trace.targets import TARGETS, Target, get_target, segmentation
from tests.export.models import EXAMPLE, Classifier, build, images
from tests.export.oracle import TOLERANCE, maps_by_hand, run_any_file, worst_error

# No kinks: double precision may differ from single by rounding alone.
LAYER = "features.1"


def classifier() -> nn.Module:
    layers = nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.Conv2d(6, 8, 3, padding=1), nn.GELU()
    return Classifier(nn.Sequential(*layers), 8)


class OneScore(nn.Module):
    """A yes-or-no classifier: (B, 1), or (B,) where it is `flat`."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.Conv2d(6, 1, 3))
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        z = self.features(x).sigmoid().mean((2, 3)) - 0.5
        return z[:, 0] if self.flat else z


class Segmenter(nn.Module):
    """Scores per pixel (B, 4, H, W), at the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.Conv2d(6, 4, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.features(x), x.shape[2:], mode="bilinear")


def logit(z: Tensor, c: int) -> Tensor:
    return z[0, c]


def probability(z: Tensor, c: int) -> Tensor:
    return z[0, c].exp() / z[0].exp().sum()


def rest(z: Tensor, c: int) -> Tensor:
    return z[0, c] + probability(z, c).log()


def nearest(z: Tensor, c: int) -> list[int]:
    scores = z[0].tolist()
    others = [d for d in range(len(scores)) if d != c]
    return sorted(others, key=lambda d: abs(scores[d] - scores[c]))[:3]


def finer(z: Tensor, c: int) -> Tensor:
    similar = nearest(z, c)
    weighted = [probability(z, d) * (z[0, c] - z[0, d]) for d in similar]
    return torch.stack(weighted).sum() / torch.stack([probability(z, d) for d in similar]).sum()


def binary(z: Tensor, c: int) -> Tensor:
    return z.flatten()[0] if c == 1 else -z.flatten()[0]


def where_best(z: Tensor, c: int) -> Tensor:
    return z[0, c][z[0].argmax(dim=0) == c].sum()


MASK = torch.zeros(24, 24)
MASK[2:11, 5:20] = 1


def inside(z: Tensor, c: int) -> Tensor:
    return z[0, c, 2:11, 5:20].sum()


def third(output: Tensor) -> Tensor:
    return output[:, 2]


def differences(output: Tensor) -> Tensor:
    return output[:, :3] ** 2 - output[:, 1:4]


Case = tuple[Callable[[], nn.Module], Any, Callable[[Tensor, int], Tensor], int]

# model, target, its formula, number of classes
CASES: dict[str, Case] = {
    "logit": (classifier, "logit", logit, 5),
    "probability": (classifier, "probability", probability, 5),
    "binary": (OneScore, "binary", binary, 2),
    "binary, flat": (lambda: OneScore(flat=True), "binary", binary, 2),
    "value": (OneScore, "value", logit, 1),
    "rest": (classifier, "rest", rest, 5),
    "finer": (classifier, "finer", finer, 5),
    "segmentation": (Segmenter, "segmentation", where_best, 4),
    "segmentation, mask": (Segmenter, segmentation(MASK.bool()), inside, 4),
    "function, (B,)": (classifier, third, lambda z, c: z[0, 2], 1),
    "function, (B, N)": (
        classifier,
        differences,
        lambda z, c: z[0, c] ** 2 - z[0, c + 1],
        3,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Explained]:
    make, target, *_ = CASES[request.param]
    model = build(make)
    return request.param, model, explain(model, EXAMPLE, layer=LAYER, target=target)


def asked_of(name: str, batch: int) -> Tensor:
    """Every class, in another order for each image."""
    classes = CASES[name][3]
    return torch.stack([torch.arange(classes).roll(n) for n in range(batch)])


def test_every_target_has_its_case() -> None:
    of_queries = {"similarity", "dot"}  # in test_queries
    tried = {target for _, target, *_ in CASES.values() if isinstance(target, str)}
    assert tried | of_queries == set(TARGETS)


@pytest.mark.parametrize("shape", [(3, 24, 24), (1, 30, 21)])
def test_eager(case: Any, shape: tuple[int, ...]) -> None:
    name, model, explained = case
    if name == "segmentation, mask":
        shape = (shape[0], 24, 24)
    image, ids = images(4, *shape), asked_of(name, shape[0])
    expected = maps_by_hand(model, [LAYER], [image], ids.tolist(), CASES[name][2])
    given = explained(image, ids)
    assert expected.max() > 0.9
    assert torch.equal(given.classes, ids)
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    assert torch.equal(given.scores, model(image))
    assert explained.card.num_classes == CASES[name][3]
    for n in range(1, len(image)):
        k = int((ids[n] == ids[0, 0]).nonzero())
        assert np.abs(expected[n, k] - expected[0, 0]).max() > 0.05


# The others are made of the same operators.
TOLD_APART = ("binary", "finer", "segmentation")


@pytest.mark.parametrize(
    "case",
    [name if name in TOLD_APART else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
    indirect=True,
)
def test_onnx(case: Any, tmp_path: Path) -> None:
    name, model, explained = case
    card = save(explained, tmp_path / "model.onnx")
    assert card.proof["worst_relative_error"] < TOLERANCE
    image, ids = images(5, 2, 24, 24), asked_of(name, 2)
    given = run_any_file(tmp_path / "model.onnx", image, ids)
    expected = maps_by_hand(model, [LAYER], [image], ids.tolist(), CASES[name][2])
    assert worst_error(given["saliency_map"], expected) < TOLERANCE
    assert worst_error(given["scores"], model(image).detach().numpy()) < 1e-5
    k = int((ids[1] == ids[0, 0]).nonzero())
    assert np.abs(given["saliency_map"][1, k] - given["saliency_map"][0, 0]).max() > 0.05


@pytest.mark.parametrize("name", ["probability", "rest", "finer"])
def test_it_is_not_the_logit_that_is_explained(name: str) -> None:
    model, image, ids = build(classifier), images(4, 2, 24, 24), torch.tensor([[0, 3]])
    maps = [
        explain(model, EXAMPLE, layer=LAYER, target=target)(image, ids).saliency_map
        for target in ("logit", name)
    ]
    assert (maps[0] - maps[1]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["logit", "probability", "rest", "finer"])
def test_the_best_class_is_that_of_the_highest_score(name: str) -> None:
    model, image = build(classifier), images(4, 3, 24, 24)
    given = explain(model, EXAMPLE, layer=LAYER, target=name)(image, torch.tensor([[-1, -1]]))
    assert torch.equal(given.classes, model(image).argsort(dim=1, descending=True)[:, :2])


def test_the_best_class_of_a_binary_classifier_is_told_by_the_sign() -> None:
    model, image = build(OneScore), torch.cat([images(n, 1, 24, 24) for n in range(8)])
    given = explain(model, EXAMPLE, layer=LAYER, target="binary")(image)
    assert torch.equal(given.classes[:, 0], (given.scores[:, 0] > 0).long())
    assert set(given.classes.flatten().tolist()) == {0, 1}


def test_the_best_class_of_a_function_is_that_of_its_own_values() -> None:
    model, image = build(classifier), images(4, 3, 24, 24)
    explained = explain(model, EXAMPLE, layer=LAYER, target=differences)
    given = explained(image)
    assert torch.equal(given.classes[:, 0], differences(model(image)).argmax(dim=1))
    assert torch.equal(given.scores, model(image))
    assert explained.card.options["target"] == "custom differences"
    assert explained.card.explained is None


def test_a_function_is_given_all_that_the_model_returns() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = classifier()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            z = self.net(x)
            return {"logits": z, "halves": z / 2}

    model, image = build(Two), images(4, 2, 24, 24)
    layer = f"net.{LAYER}"
    explained = explain(
        model, EXAMPLE, layer=layer, target=lambda out: out["logits"] * out["halves"]
    )
    ids = [[4, 0], [1, 2]]
    expected = maps_by_hand(model, [layer], [image], ids, lambda out, c: out["logits"][0, c] ** 2)
    given = explained(image, torch.tensor(ids)).saliency_map
    assert worst_error(given.numpy(), expected) < TOLERANCE


LABEL = torch.tensor([3])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross entropy": lambda z: -F.cross_entropy(z, LABEL.expand(z.shape[0]), reduction="none"),
    "weighted": lambda z: (
        -F.cross_entropy(z, LABEL.expand(z.shape[0]), weight=WEIGHTS, reduction="none")
    ),
    "smoothed": lambda z: (
        -F.cross_entropy(z, LABEL.expand(z.shape[0]), label_smoothing=0.2, reduction="none")
    ),
    "soft labels": lambda z: (
        -F.cross_entropy(z, WEIGHTS.expand(z.shape) / WEIGHTS.sum(), reduction="none")
    ),
    "likelihood": lambda z: (
        -F.nll_loss(z.log_softmax(1), z.new_full((z.shape[0],), 3).long(), reduction="none")
    ),
    "own best": lambda z: F.cross_entropy(z, z.argmax(1), reduction="none"),
}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("cross entropy", ".onnx"),
        *(pytest.param(name, ".onnx", marks=pytest.mark.slow) for name in [*LOSSES][1:]),
        ("own best", ".pt"),
        pytest.param("cross entropy", ".pt", marks=pytest.mark.slow),
        pytest.param("cross entropy", ".pt2", marks=pytest.mark.slow),
    ],
)
def test_losses_as_targets(name: str, suffix: str, tmp_path: Path) -> None:
    if name == "soft labels" and torch.__version__ < "2.12":
        pytest.skip("torch.export of PyTorch 2.11 fixes the batch in it")
    loss, model = LOSSES[name], build(classifier)
    explained = explain(model, EXAMPLE, layer=LAYER, target=loss)
    assert explained.card.num_classes == 1
    save(explained, tmp_path / f"model{suffix}")
    image = images(4, 3, 28, 20)
    _, classes, maps = run_any_file(
        tmp_path / f"model{suffix}", image, torch.tensor([[0]])
    ).values()
    expected = maps_by_hand(model, [LAYER], [image], [[0]] * 3, lambda z, c: loss(z.float())[0])
    assert not classes.any()
    assert worst_error(maps, expected) < TOLERANCE
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_the_mean_of_a_loss_is_no_score_of_an_image() -> None:
    with pytest.raises(ExportError, match=r"rank 0.*a loss wants reduction='none'"):
        explain(build(classifier), EXAMPLE, target=lambda z: F.cross_entropy(z, z.argmax(1)))


def test_scaling_the_logits_changes_no_map_of_a_logit() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = classifier()

        def forward(self, x: Tensor) -> Tensor:
            return 7 * self.net(x)  # type: ignore[no-any-return]

    image, ids = images(4, 2, 24, 24), torch.tensor([[1, 3]])
    plain = explain(build(classifier), EXAMPLE, layer=LAYER)(image, ids)
    scaled = explain(build(Scaled), EXAMPLE, layer=f"net.{LAYER}")(image, ids)
    torch.testing.assert_close(scaled.scores, 7 * plain.scores)
    torch.testing.assert_close(scaled.saliency_map, plain.saliency_map, rtol=0, atol=1e-5)
    soft = [
        explain(build(make), EXAMPLE, layer=layer, target="probability")(image, ids).saliency_map
        for make, layer in ((classifier, LAYER), (Scaled, f"net.{LAYER}"))
    ]
    assert (soft[0] - soft[1]).abs().max() > 1e-3


# What cannot be a target.


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="unknown target 'probabilty'; nearest: probability"):
        explain(build(classifier), EXAMPLE, target="probabilty")


@pytest.mark.parametrize("wrong", [3, ["logit"], torch.zeros(2)])
def test_neither_a_name_nor_a_function(wrong: Any) -> None:
    with pytest.raises(InputError, match="expected a target's name or a function"):
        get_target(wrong)


def test_a_target_is_taken_as_it_is() -> None:
    target = Target("mine", scores=lambda z: 2 * z)
    assert get_target(target) is target


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: z[:, :, None], r"makes a tensor of rank 3 .*'scores': .*expected scores"),
        (lambda z: z.sum(), r"makes a tensor of rank 0 .*expected scores"),
        (lambda z: [z], r"makes a list .*expected a tensor of scores"),
        (lambda z: 3, r"makes a int .*expected a tensor of scores"),
        (lambda z: z.detach(), r"no gradient to trace"),
        (lambda z: (z > 0).float(), r"no gradient to trace"),
        (lambda z: z.t(), r"shape .*expected scores \(B, N\)"),
        (lambda z: z["logits"], r"cannot trace the model"),
    ],
)
def test_a_function_of_something_else(function: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        explain(build(classifier), EXAMPLE, layer=LAYER, target=function)


def test_scores_per_pixel_want_their_target() -> None:
    with pytest.raises(ExportError, match=r"'logit' makes a tensor of rank 4.*'segmentation'"):
        explain(build(Segmenter), EXAMPLE, layer=LAYER)


def test_scores_per_image_want_another_target() -> None:
    with pytest.raises(ExportError, match=r"'segmentation' wants scores per pixel.*rank 2"):
        explain(build(classifier), EXAMPLE, layer=LAYER, target="segmentation")


def test_a_mask_of_another_size() -> None:
    with pytest.raises(ExportError, match="size of tensor"):
        explain(build(Segmenter), EXAMPLE, layer=LAYER, target=segmentation(MASK[:, :20]))


def test_binary_wants_one_score() -> None:
    with pytest.raises(InputError, match=r"expected one score for each image"):
        explain(build(classifier), EXAMPLE, layer=LAYER, target="binary")


def test_finer_wants_classes_to_compare() -> None:
    with pytest.raises(InputError, match="at least two classes"):
        explain(build(OneScore), EXAMPLE, layer=LAYER, target="finer")


# pytorch-grad-cam 1.5.7, whose targets take one image's output each.


@pytest.fixture(scope="module")
def peer() -> tuple[ModuleType, ModuleType]:
    return (
        pytest.importorskip("pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"),
        pytest.importorskip("pytorch_grad_cam.utils.model_targets"),
    )


def as_the_peer_does(peer: Any, model: nn.Module, image: Tensor, targets: list[Any]) -> np.ndarray:
    with peer[0].GradCAM(model, [model.get_submodule(LAYER)]) as cam:
        maps: np.ndarray = cam(image, targets)
    assert maps.max() > 0.9
    return maps


@pytest.mark.parametrize("name", ["probability", "rest", "finer"])
def test_a_classifier_as_pytorch_grad_cam(name: str, peer: Any) -> None:
    """Its contrast divides by the weights plus 1e-9, which no map shows, and the caller says which
    classes are similar.
    """
    model, image, ids = build(classifier), images(4, 3, 28, 24), [4, 0, 2]
    targets = {
        "probability": lambda n, c: peer[1].ClassifierOutputSoftmaxTarget(c),
        "rest": lambda n, c: peer[1].ClassifierOutputReST(c),
        "finer": lambda n, c: peer[1].FinerWeightedTarget(c, nearest(model(image[n][None]), c), 1),
    }[name]
    expected = as_the_peer_does(peer, model, image, [targets(n, c) for n, c in enumerate(ids)])
    explained = explain(model, EXAMPLE, layer=LAYER, target=name)
    given = explained(image, torch.tensor(ids)[:, None]).saliency_map[:, 0]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)


def test_finer_cam_of_the_best_class_as_pytorch_grad_cam(peer: Any) -> None:
    model, image = build(classifier), images(4, 3, 28, 24)
    with peer[0].FinerCAM(model, [model.get_submodule(LAYER)]) as cam:
        expected = cam(image)
    given = explain(model, EXAMPLE, layer=LAYER, target="finer")(image).saliency_map[:, 0]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)


def test_a_binary_classifier_as_pytorch_grad_cam(peer: Any) -> None:
    model, image, ids = build(OneScore), images(4, 3, 28, 24), [1, 0, 1]
    targets = [peer[1].BinaryClassifierOutputTarget(c) for c in ids]
    expected = as_the_peer_does(peer, model, image, targets)
    explained = explain(model, EXAMPLE, layer=LAYER, target="binary")
    given = explained(image, torch.tensor(ids)[:, None]).saliency_map[:, 0]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("masked", [True, False])
def test_segmentation_as_pytorch_grad_cam(masked: bool, peer: Any) -> None:
    """It has no default mask: its users take the pixels where the class is the best."""
    model, image, ids = build(Segmenter), images(4, 3, 24, 24), [3, 0, 2]
    best = model(image).argmax(dim=1)
    masks = [MASK if masked else (best[n] == c).float() for n, c in enumerate(ids)]
    assert all(mask.any() for mask in masks)
    targets = [
        peer[1].SemanticSegmentationTarget(c, mask.numpy())
        for c, mask in zip(ids, masks, strict=True)
    ]
    expected = as_the_peer_does(peer, model, image, targets)
    target = segmentation(MASK) if masked else "segmentation"
    explained = explain(model, EXAMPLE, layer=LAYER, target=target)
    given = explained(image, torch.tensor(ids)[:, None]).saliency_map[:, 0]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)
