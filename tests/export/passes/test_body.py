"""Methods of many forward passes: in the graph and in the files, beside the papers and the peer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError, InputError, UnknownNameError
from camcore.export import Explained, explain, save
from camcore.export.families import family_of
from camcore.export.passes.ablation import AblationBody, LinearAblationBody
from camcore.export.passes.body import PassesBody
from camcore.export.passes.loops import Resumed
from camcore.export.passes.recipro import LinearReciproBody, ReciproBody
from camcore.methods import METHODS
from tests.export.models import (
    EXAMPLE,
    NUM_CLASSES,
    Classifier,
    SmallNet,
    Transformer,
    build,
    images,
)
from tests.export.oracle import TOLERANCE, in_turn, run_any_file, worst_error
from tests.export.pass_oracle import Objective, Place, finer, maps_of_passes, probability

FORMATS = (".onnx", ".pt", ".pt2")

# As few passes as still show everything; a chunk that fits no number of them.
OPTIONS: dict[str, dict[str, Any]] = {
    "ablationcam": {"chunk": 5},
    "scorecam": {"chunk": 5},
    "sscam": {"chunk": 5, "samples": 2, "std": 0.5, "seed": 3},
    "iscam": {"chunk": 5, "samples": 3},
    "reciprocam": {"chunk": 5},
    "vit-reciprocam": {"chunk": 5},
    "rise": {"chunk": 5, "n_masks": 12, "cells": 4, "seed": 1},
}


def test_no_method_is_left_out() -> None:
    assert set(OPTIONS) == {m.name for m in METHODS.values() if family_of(m).many_passes}


class LastNet(nn.Module):
    """Channels last from the first layer on, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=3)
        self.mix = nn.Sequential(nn.Linear(8, 10), nn.GELU())
        self.norm = nn.LayerNorm(10)
        self.fc = nn.Linear(10, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.stem(x).permute(0, 2, 3, 1))
        return self.fc(self.norm(x).square().mean((1, 2)))  # type: ignore[no-any-return]


class Scaled(nn.Module):
    """A second input with a row for each image, which crosses the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.fc = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        x = (self.conv(x).tanh() * scale[:, :, None, None]).tanh()
        return self.fc((x**2).mean((2, 3)))  # type: ignore[no-any-return]


class Two(nn.Module):
    """A dictionary with a tensor, and a tuple with the scores in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallNet()

    def forward(self, x: Tensor) -> Any:
        scores = self.inner(x)
        return {"size": x.mean((2, 3)), "heads": (scores, scores.sigmoid())}


def affine_net() -> nn.Module:
    """Pooled, then a linear layer: no pass is needed."""
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 7, 3), nn.ReLU())
    return Classifier(features, 7)


@dataclass(frozen=True)
class Case:
    """A model, a layer of it, and what the oracle has to know."""

    make: Callable[[], nn.Module]
    place: Place
    free: bool = True
    others: tuple[int, ...] = ()
    output: Any = None
    read: Callable[[Any], Any] = lambda output: output

    def inputs(self, seed: int, batch: int, *size: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        size = size if self.free else (24, 24)
        others = [torch.randn(batch, width, generator=generator) for width in self.others]
        return images(seed, batch, *size), *others

    def explain(self, model: nn.Module, method: str, **how: Any) -> Explained:
        layer = {} if method == "rise" else {"layer": self.place.layer}
        how = OPTIONS[method] | layer | {"output": self.output} | how
        return explain(model, self.inputs(0, 1, 24, 24), method=method, **how)

    def expected(
        self, model: nn.Module, method: str, inputs: Any, classes: Any, **how: Any
    ) -> np.ndarray:
        place = Place() if method == "rise" else self.place
        objective: Objective = how.pop("objective", None) or _default(method)
        how["objective"] = lambda output, c: objective(self.read(output), c)
        ids = np.broadcast_to(np.asarray(classes), (len(inputs[0]), np.shape(classes)[1]))
        how = OPTIONS[method] | how
        return maps_of_passes(method, model, place, inputs, ids.tolist(), **how)


def _default(method: str) -> Objective:
    return probability if METHODS[method].target == "probability" else logit


def logit(output: Any, c: int) -> Tensor:
    return output[0, c]  # type: ignore[no-any-return]


CASES = {
    "skip": Case(SmallNet, Place("block.conv2")),
    "last": Case(LastNet, Place("mix", last=True)),
    "tokens": Case(Transformer, Place("blocks.0", prefix=2, grid=(3, 3)), free=False),
    "inputs": Case(Scaled, Place("conv"), others=(6,)),
    "outputs": Case(
        Two, Place("inner.block"), output="heads_0", read=lambda output: output["heads"][0]
    ),
    "affine": Case(affine_net, Place("features")),
}


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {name: build(case.make) for name, case in CASES.items()}


def telling(method: str) -> float:
    """How far maps differ at least: twelve random masks show little but themselves."""
    return 10 * TOLERANCE if method == "rise" else 0.05


def fits(method: str, name: str) -> bool:
    return method != "vit-reciprocam" or name == "tokens"


PAIRS = [(method, name) for method in OPTIONS for name in CASES if fits(method, name)]

# Each format in its turn: every method in all of them, and every trait of a model.
IN_TURN = [
    (method, name, FORMATS[(list(OPTIONS).index(method) + list(CASES).index(name)) % 3])
    for method, name in PAIRS
]


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_maps(method: str, name: str, models: dict[str, nn.Module]) -> None:
    """On another batch, of another size, of several classes."""
    case, model = CASES[name], models[name]
    explained = case.explain(model, method)
    assert (explained.card.image.height is None) == case.free or method == "rise"
    inputs, ids = case.inputs(1, 2, 21, 30), torch.tensor([[4, 0], [2, 4]])
    given = explained(*inputs, ids)
    expected = case.expected(model, method, inputs, ids)
    assert given.saliency_map.shape == expected.shape == (2, 2, *inputs[0].shape[2:])
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    assert np.abs(expected[0, 0] - expected[1, 1]).max() > telling(method)
    (scores, *_), twin = given, case.read(model(*inputs))
    own = scores if case.output is None else getattr(given, case.output)
    torch.testing.assert_close(own, twin, rtol=1e-5, atol=1e-6)


def check_file(
    case: Case,
    model: nn.Module,
    method: str,
    explained: Explained,
    path: Path,
    *sizes: Any,
    **how: Any,
) -> None:
    card = save(explained, path)
    assert card.proof["worst_relative_error"] < TOLERANCE
    ids_of = {1: [[3, 0, 1]], 3: [[4], [2], [0]]}
    for seed, (batch, *size) in enumerate(sizes, 5):
        inputs, ids = case.inputs(seed, batch, *size), torch.tensor(ids_of[batch])
        *outputs, classes, maps = run_any_file(path, *inputs, ids).values()
        own = case.read(model(*inputs)).detach().numpy()
        errors = [worst_error(each, own) for each in outputs if each.shape == own.shape]
        assert min(errors) < TOLERANCE
        np.testing.assert_array_equal(classes, ids.expand(batch, -1))
        assert worst_error(maps, case.expected(model, method, inputs, ids, **how)) < TOLERANCE
        assert batch == 1 or np.abs(maps[0] - maps[1]).max() > telling(method)


# Those that share a body with one of the others are told apart by their masks alone.
ALIKE = {"sscam", "iscam", "vit-reciprocam"}


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in OPTIONS],
)
def test_files(method: str, models: dict[str, nn.Module], tmp_path: Path) -> None:
    """Other content, batch size, size and classes than at the export, in all formats."""
    name = "tokens" if method == "vit-reciprocam" else "skip"
    case, model = CASES[name], models[name]
    explained = case.explain(model, method)
    for suffix in FORMATS:
        path = tmp_path / f"model{suffix}"
        check_file(case, model, method, explained, path, (3, 30, 20), (1, 25, 37))


@pytest.mark.parametrize(
    ("method", "name", "suffix"),
    [
        ("ablationcam", "last", ".pt2"),
        ("ablationcam", "affine", ".onnx"),
        ("ablationcam", "tokens", ".onnx"),
        ("scorecam", "inputs", ".onnx"),
        ("iscam", "outputs", ".pt2"),
        ("reciprocam", "last", ".onnx"),
        ("rise", "inputs", ".pt"),
    ],
)
def test_files_of_other_models(
    method: str, name: str, suffix: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    case, model = CASES[name], models[name]
    path = tmp_path / f"model{suffix}"
    explained = case.explain(model, method)
    check_file(case, model, method, explained, path, (3, 30, 20), (1, 25, 37))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name", "suffix"), IN_TURN)
def test_all_files(
    method: str, name: str, suffix: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    case, model = CASES[name], models[name]
    for free in {case.free, False}:
        explained = case.explain(model, method, dynamic_size=free)
        sizes = [(3, 30, 20), (1, 25, 37)] if free else [(3, 24, 24), (1, 24, 24)]
        check_file(case, model, method, explained, tmp_path / f"model{suffix}", *sizes)


@pytest.mark.parametrize(
    ("method", "suffix"), [("ablationcam", ".pt"), ("scorecam", ".onnx"), ("rise", ".pt2")]
)
def test_files_of_a_fixed_size(
    method: str, suffix: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    case, model = CASES["skip"], models["skip"]
    explained = case.explain(model, method, dynamic_size=False)
    assert explained.card.image.height == 24
    path = tmp_path / f"model{suffix}"
    check_file(case, model, method, explained, path, (3, 24, 24), (1, 24, 24))


# In steps.


@pytest.mark.parametrize(("method", "suffix"), in_turn(OPTIONS, FORMATS))
def test_files_in_steps(
    method: str, suffix: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    """Steps in any order, the state handed from one run to the next, give what one run gives."""
    name = "tokens" if method == "vit-reciprocam" else "skip"
    case, model = CASES[name], models[name]
    explained = case.explain(model, method, stepwise=True)
    path = tmp_path / f"model{suffix}"
    card = save(explained, path)
    assert card.steps is not None
    assert card.steps > 1
    size = (24, 24) if card.image.height else (21, 30)
    inputs, ids = case.inputs(5, 2, *size), torch.tensor([[3, 0, 1], [2, 2, 4]])
    expected = case.expected(model, method, inputs, ids)
    assert np.abs(expected[0, 0] - expected[1, 1]).max() > telling(method)
    state = torch.zeros(card.state_shape((2, 3, *size), 3))
    order = torch.randperm(card.steps, generator=torch.Generator().manual_seed(1))
    for part in order.tensor_split([1]):
        *_, maps, found = run_any_file(path, *inputs, ids, part, state).values()
        state = torch.from_numpy(found)
    assert worst_error(maps, expected) < TOLERANCE
    np.testing.assert_allclose(
        maps, explained(*inputs, ids).saliency_map, rtol=0, atol=10 * TOLERANCE
    )


def test_half_of_the_steps_are_not_the_map(models: dict[str, nn.Module]) -> None:
    case, model = CASES["skip"], models["skip"]
    explained = case.explain(model, "scorecam", stepwise=True)
    body = explained.body
    assert isinstance(body, PassesBody)
    assert explained.card.steps is not None
    inputs, ids = case.inputs(5, 2, 24, 24), torch.tensor([[3], [2]])
    state = torch.zeros(explained.card.state_shape((2, 3, 24, 24), 1))
    *_, maps, state = body.resume(inputs, ids, Resumed(torch.tensor([0]), state))
    whole = explained(*inputs, ids).saliency_map
    assert (maps - whole).abs().max() > 0.01
    rest = torch.arange(1, explained.card.steps)
    *_, maps, state = body.resume(inputs, ids, Resumed(rest, state))
    torch.testing.assert_close(maps, whole)


@pytest.mark.parametrize(
    ("method", "how", "message"),
    [
        ("gradcam", {"layer": "mix"}, "gradcam takes no many passes"),
        ("rise", {"aug_smooth": True}, "stepwise and aug_smooth do not go together"),
    ],
)
def test_what_has_no_steps(method: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(build(LastNet), images(0, 1, 24, 24), method=method, stepwise=True, **how)


@pytest.mark.parametrize("method", ["ablationcam", "reciprocam"])
def test_a_linear_tail_has_no_steps(method: str, models: dict[str, nn.Module]) -> None:
    with pytest.raises(InputError, match=r"one pass tells all .*, leave out stepwise"):
        CASES["affine"].explain(models["affine"], method, stepwise=True)


def test_steps_of_unknown_number_fix_the_size(models: dict[str, nn.Module]) -> None:
    case, model = CASES["skip"], models["skip"]
    explained = case.explain(model, "reciprocam", stepwise=True)
    assert explained.card.image.height == 24
    assert "takes a pass for each point" in explained.card.notes[0]
    with pytest.raises(ExportError, match="their number is not known"):
        case.explain(model, "reciprocam", stepwise=True, dynamic_size=True)


class Stateful(nn.Module):
    """Its own output has a name that a file in steps gives to another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallNet()

    def forward(self, x: Tensor) -> Any:
        return {"scores": self.inner(x), "state": x.mean((2, 3))}


def test_a_model_with_a_state_of_its_own() -> None:
    model, example = build(Stateful), images(0, 1, 24, 24)
    how: dict[str, Any] = {"method": "rise", "n_masks": 4}
    assert explain(model, example, **how).card.outputs[:2] == ("scores", "state")
    with pytest.raises(ExportError, match=r"outputs called \['state'\].*Leave out stepwise"):
        explain(model, example, stepwise=True, **how)


# Targets.

TARGETS: dict[str, Objective] = {"logit": logit, "probability": probability, "finer": finer}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", [name for name in OPTIONS if name != "vit-reciprocam"])
def test_targets(method: str, target: str, models: dict[str, nn.Module]) -> None:
    for name in ("affine", "skip"):
        case, model = CASES[name], models[name]
        explained = case.explain(model, method, target=target)
        inputs, ids = case.inputs(2, 2, 20, 24), torch.tensor([[1, 3]])
        given = explained(*inputs, ids).saliency_map.numpy()
        expected = case.expected(model, method, inputs, ids, objective=TARGETS[target])
        assert worst_error(given, expected) < TOLERANCE


@pytest.mark.parametrize(("name", "target", "bodies"), [
    ("affine", "logit", (LinearAblationBody, LinearReciproBody)),
    ("affine", "probability", (AblationBody, ReciproBody)),
    ("affine", "finer", (AblationBody, ReciproBody)),
    ("skip", "logit", (AblationBody, ReciproBody)),
])  # fmt: skip
def test_one_pass_back_where_the_rest_is_affine(
    name: str, target: str, bodies: tuple[type, type], models: dict[str, nn.Module]
) -> None:
    methods = ("ablationcam", "reciprocam")
    made = [CASES[name].explain(models[name], method, target=target) for method in methods]
    assert tuple(type(explained.body) for explained in made) == bodies


# Laws.


@pytest.fixture(scope="module", params=OPTIONS)
def explained(request: pytest.FixtureRequest, models: dict[str, nn.Module]) -> Any:
    name = "tokens" if request.param == "vit-reciprocam" else "skip"
    case = CASES[name]
    return request.param, case, models[name], case.explain(models[name], request.param)


def test_a_batch_gives_what_its_images_give(explained: Any) -> None:
    method, case, _, module = explained
    inputs, ids = case.inputs(3, 3, 20, 28), torch.tensor([[0, 2], [1, 4], [3, 0]])
    batch = module(*inputs, ids).saliency_map
    for n in range(3):
        one = module(*(value[n : n + 1] for value in inputs), ids[n : n + 1]).saliency_map
        torch.testing.assert_close(batch[n : n + 1], one, rtol=0, atol=1e-4)
    assert (batch[0] - batch[1]).abs().max() > telling(method)


def test_other_orders_of_classes_are_other_orders_of_maps(explained: Any) -> None:
    _, case, _, module = explained
    inputs = case.inputs(3, 2, 20, 28)
    straight = module(*inputs, torch.tensor([[0, 1, 2, 3, 4]])).saliency_map
    turned = module(*inputs, torch.tensor([[3, 0, 4, 2, 1]])).saliency_map
    torch.testing.assert_close(turned, straight[:, [3, 0, 4, 2, 1]], rtol=0, atol=1e-5)
    assert (straight[:, 0] - straight[:, 1]).abs().max() > 1e-3


def test_the_best_classes(explained: Any) -> None:
    _, case, model, module = explained
    inputs = case.inputs(3, 2, 20, 28)
    given = module(*inputs, torch.tensor([[-1, -1]]))
    best = case.read(model(*inputs)).topk(2).indices
    assert torch.equal(given.classes, best)
    same = module(*inputs, best).saliency_map
    torch.testing.assert_close(given.saliency_map, same, rtol=0, atol=1e-6)


def test_the_chunk_changes_nothing(explained: Any) -> None:
    method, case, model, module = explained
    inputs, ids = case.inputs(3, 2, 20, 28), torch.tensor([[0, 4]])
    for chunk in (1, 7, 1000):
        other = case.explain(model, method, chunk=chunk)(*inputs, ids).saliency_map
        torch.testing.assert_close(other, module(*inputs, ids).saliency_map, rtol=0, atol=1e-4)


# Options.

DIFFERENT: list[tuple[str, dict[str, Any]]] = [
    ("ablationcam", {"ratio": 0.4}),
    ("ablationcam", {"value": 0.7}),
    ("ablationcam", {"value": -3}),
    ("scorecam", {"channels": 3}),
    ("scorecam", {"align_corners": True}),
    ("sscam", {"samples": 3}),
    ("sscam", {"std": 1.5}),
    ("sscam", {"seed": 4}),
    ("sscam", {"channels": 3}),
    ("iscam", {"samples": 5}),
    ("iscam", {"channels": 2, "align_corners": True}),
    ("reciprocam", {"gaussian": True}),
    *((method, {"eigen_smooth": True}) for method in ("ablationcam", "scorecam", "sscam", "iscam")),
    ("ablationcam", {"eigen_smooth": True, "ratio": 0.4}),
    ("scorecam", {"eigen_smooth": True, "channels": 3}),
    ("rise", {"n_masks": 17}),
    ("rise", {"cells": 2}),
    ("rise", {"seed": 2}),
    ("rise", {"probability": 0.25}),
]


@pytest.mark.parametrize(("method", "options"), DIFFERENT)
def test_options(method: str, options: dict[str, Any], models: dict[str, nn.Module]) -> None:
    for name in ("skip", "affine"):
        case, model = CASES[name], models[name]
        inputs, ids = case.inputs(4, 2, 24, 20), torch.tensor([[1, 3]])
        raw = {"normalize": False, "full_size": False, "relu": False}
        explained = case.explain(model, method, **raw, **options)
        assert explained.card.options.items() >= options.items()
        given = explained(*inputs, ids).saliency_map.numpy()
        expected = case.expected(model, method, inputs, ids, **raw, **options)
        assert worst_error(given, expected) < TOLERANCE
        plain = case.expected(model, method, inputs, ids, **raw)
        assert worst_error(given, plain) > 3 * TOLERANCE


def test_options_of_one_method_that_mean_the_same(models: dict[str, nn.Module]) -> None:
    """ViT-ReciproCAM is Recipro-CAM with its masks blurred; all channels are no choice."""
    inputs, ids = CASES["tokens"].inputs(4, 2), torch.tensor([[1, 3]])
    pairs = [
        ("tokens", ("vit-reciprocam", {}), ("reciprocam", {"gaussian": True})),
        ("skip", ("scorecam", {"channels": None}), ("scorecam", {"channels": 8})),
        ("skip", ("iscam", {"samples": 1}), ("scorecam", {})),
        ("skip", ("sscam", {"std": 0.0}), ("scorecam", {})),
    ]
    for name, *pair in pairs:
        first, second = (
            CASES[name].explain(models[name], method, **options)(*inputs, ids).saliency_map
            for method, options in pair
        )
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "suffix"), [("ablationcam", ".onnx"), ("scorecam", ".pt")])
def test_files_of_first_components(
    method: str, suffix: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    case, model, how = CASES["skip"], models["skip"], {"eigen_smooth": True}
    explained, path = case.explain(model, method, **how), tmp_path / f"model{suffix}"
    check_file(case, model, method, explained, path, (3, 30, 20), (1, 25, 37), **how)


@pytest.mark.parametrize("method", ["ablationcam", "scorecam", "reciprocam", "rise"])
def test_aug_smooth(method: str, models: dict[str, nn.Module]) -> None:
    case, model = CASES["skip"], models["skip"]
    (image,), ids = case.inputs(4, 2, 24, 20), torch.tensor([[1, 3]])
    expected = []
    for brightness in (0.9, 1.0, 1.1):
        expected.append(case.expected(model, method, (image * brightness,), ids))
        mirrored = case.expected(model, method, (image.flip(3) * brightness,), ids)
        expected.append(mirrored[..., ::-1])
    given = case.explain(model, method, aug_smooth=True)(image, ids).saliency_map.numpy()
    assert worst_error(given, np.mean(expected, axis=0)) < TOLERANCE


@pytest.mark.parametrize("method", ["ablationcam", "scorecam", "reciprocam", "rise"])
def test_pixels(method: str, models: dict[str, nn.Module]) -> None:
    """What is masked is the image that the graph prepared, or an activation behind it."""
    case, model = CASES["skip"], models["skip"]
    explained = case.explain(model, method, pixels=True)
    spec = explained.card.image
    pixels = torch.randint(0, 256, (2, 24, 20, 3), dtype=torch.uint8)
    image = (pixels / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    ids = torch.tensor([[1, 3]])
    expected = case.expected(model, method, (image.movedim(-1, 1),), ids)
    assert worst_error(explained(pixels, ids).saliency_map.numpy(), expected) < TOLERANCE


# Refused.


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "rise", "layer": "top"}, "rise takes no layer, for it masks the image; got"),
        (
            {"method": "scorecam", "layer": ["top", "stem"], "stepwise": True},
            "the passes of one layer in steps, got top, stem",
        ),
        ({"method": "scorecam", "chunk": 0}, "expects chunk to be a whole number above 0, got 0"),
        ({"method": "ablationcam", "chunk": 1.5}, "expects chunk .* got 1.5"),
        ({"method": "scorecam", "channels": 0}, "expects channels .* got 0"),
        ({"method": "scorecam", "channels": -1}, "expects channels .* got -1"),
        ({"method": "scorecam", "channels": True}, "expects channels .* got True"),
        ({"method": "sscam", "samples": 0}, "expects samples .* got 0"),
        ({"method": "rise", "n_masks": 0}, "expects n_masks .* got 0"),
        ({"method": "rise", "cells": 0}, "expects cells .* got 0"),
        ({"method": "rise", "probability": 0.0}, "a probability above 0 and at most 1, got 0.0"),
        ({"method": "ablationcam", "ratio": 0}, "a ratio above 0 and at most 1, got 0"),
        ({"method": "ablationcam", "ratio": 1.2}, "a ratio above 0 and at most 1, got 1.2"),
        ({"method": "scorecam", "layer": "top", "channels": 13}, "with 13 channels.* has 12"),
        ({"method": "reciprocam", "eigen_smooth": True}, "reciprocam is not"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], match: str, models: dict[str, nn.Module]
) -> None:
    with pytest.raises(InputError, match=match):
        explain(models["skip"], EXAMPLE, **options)


def test_layers_that_a_method_is_not_made_for_are_refused(models: dict[str, nn.Module]) -> None:
    with pytest.raises(ExportError, match=r"'top' returns none: choose reciprocam, with gaussian"):
        explain(models["skip"], EXAMPLE, method="vit-reciprocam", layer="top")
    line = build(lambda: Classifier(nn.Conv1d(3, 4, 3), 4), shape=(3, 24))
    with pytest.raises(ExportError, match=r"rise masks images \(B, C, H, W\), got 1 axes of space"):
        explain(line, torch.zeros(1, 3, 24), method="rise")


def test_unknown_options_are_refused(models: dict[str, nn.Module]) -> None:
    with pytest.raises(UnknownNameError, match="option of ablationcam 'rato'; nearest: ratio"):
        explain(models["skip"], EXAMPLE, method="ablationcam", rato=1)


@pytest.mark.parametrize("method", ["ablationcam", "scorecam", "sscam", "iscam", "reciprocam"])
def test_signals(method: str) -> None:
    """One axis of space."""
    features = nn.Sequential(nn.Conv1d(3, 6, 3, stride=2), nn.Tanh(), nn.Conv1d(6, 5, 3), nn.GELU())
    model = build(lambda: Classifier(features, 5), shape=(3, 32))
    case = Case(affine_net, Place("features.1"))
    options = OPTIONS[method] | {"layer": "features.1"}
    explained = explain(model, torch.zeros(1, 3, 32), method=method, **options)
    image, ids = images(3, 2, 41), torch.tensor([[1, 3]])
    expected = case.expected(model, method, (image,), ids)
    assert worst_error(explained(image, ids).saliency_map.numpy(), expected) < TOLERANCE


# pytorch-grad-cam 1.5.7.


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    module: ModuleType = pytest.importorskip(
        "pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"
    )
    return module


def maps_of_peer(
    peer: Any, name: str, model: nn.Module, layer: str, image: Tensor, ids: list[int], batch: int
) -> np.ndarray:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with getattr(peer, name)(model, [model.get_submodule(layer)]) as cam:
        cam.batch_size = batch
        maps: np.ndarray = cam(image, [ClassifierOutputTarget(c) for c in ids])
    assert maps.max() > 0.7
    return maps


IDS = [4, 1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_score_cam_of_the_peer(peer: ModuleType, models: dict[str, nn.Module]) -> None:
    """With its masks' corners aligned, for which there is an option."""
    image = images(7, 2, 28, 20)
    for name in ("affine", "skip"):
        case, model = CASES[name], models[name]
        explained = case.explain(model, "scorecam", align_corners=True)
        given = explained(image, torch.tensor(IDS)[:, None]).saliency_map[:, 0]
        expected = maps_of_peer(peer, "ScoreCAM", model, case.place.layer, image, IDS, 16)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)


def positive(model: nn.Module) -> nn.Module:
    """The peer divides by the score and not by its size: these are above 0."""
    model.get_submodule("fc").bias.data.add_(20.0)
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ablation_cam_of_the_peer(peer: ModuleType) -> None:
    """Behind a ReLU it ablates with 0, too, where 0 is in the activation of every image."""
    image = images(7, 2, 28, 20)
    for name, layer in (("affine", "features"), ("skip", "top")):
        model = positive(build(CASES[name].make))
        explained = explain(model, EXAMPLE, method="ablationcam", layer=layer)
        given = explained(image, torch.tensor(IDS)[:, None]).saliency_map[:, 0]
        expected = maps_of_peer(peer, "AblationCAM", model, layer, image, IDS, 3)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ablation_cam_of_the_peer_depends_on_its_batch_size(peer: ModuleType) -> None:
    """Where the activation has no 0, its value sinks from channel to channel of a batch."""
    model, image = positive(build(LastFree)), images(7, 2, 28, 20)
    first, second = (
        maps_of_peer(peer, "AblationCAM", model, "conv", image, IDS, batch) for batch in (1, 6)
    )
    assert np.abs(first - second).max() > 0.05
    explained = explain(model, EXAMPLE, method="ablationcam", layer="conv")
    place, ids = Place("conv"), torch.tensor(IDS)[:, None]
    expected = maps_of_passes("ablationcam", model, place, (image,), ids.tolist())
    assert worst_error(explained(image, ids).saliency_map.numpy(), expected) < TOLERANCE


class LastFree(nn.Module):
    """A layer without a ReLU behind it, and a bounded rest, for the peer's values are huge."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.fc = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)) / 3)  # type: ignore[no-any-return]
