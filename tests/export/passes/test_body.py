"""What holds for all that takes many passes: its laws, targets, steps and files."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from camcore.export import explain, save
from camcore.export.passes.body import PassesBody
from camcore.export.passes.loops import Resumed
from tests.export.models import (
    Classifier,
    build,
    images,
)
from tests.export.oracle import TOLERANCE, first_fast, in_turn, run_any_file, worst_error
from tests.export.pass_oracle import Objective, Place, finer, probability
from tests.export.passing import (
    CASES,
    FORMATS,
    OPTIONS,
    PAIRS,
    Case,
    affine_net,
    check_file,
    logit,
    telling,
)

pytestmark = pytest.mark.usefixtures("shared_traces")


# Each format in its turn: every method in all of them, and every trait of a model.
IN_TURN = [
    (method, name, FORMATS[(list(OPTIONS).index(method) + list(CASES).index(name)) % 3])
    for method, name in PAIRS
]
# Those that share a body with one of the others are told apart by their masks alone.
ALIKE = {"sscam", "iscam", "vit-reciprocam"}


def in_turn_unless_alike() -> list[Any]:
    """Of each body one method is always tested, in one format in turn, the others if slow."""
    others = [method for method in OPTIONS if method not in ALIKE]
    alike = [pytest.param(*pair, marks=pytest.mark.slow) for pair in product(ALIKE, FORMATS)]
    return in_turn(others, FORMATS) + sorted(alike, key=str)


@pytest.mark.parametrize(("method", "suffix"), in_turn_unless_alike())
def test_files(method: str, suffix: str, models: dict[str, nn.Module], tmp_path: Path) -> None:
    """Other content, batch size, size and classes than at the export."""
    name = "tokens" if method == "vit-reciprocam" else "skip"
    case, model = CASES[name], models[name]
    explained = case.explain(model, method)
    path = tmp_path / f"model{suffix}"
    check_file(case, model, method, explained, path, (3, 30, 20), (1, 25, 37))


@pytest.mark.parametrize(
    ("method", "name", "suffix"),
    [
        ("scorecam", "inputs", ".onnx"),
        pytest.param("ablationcam", "affine", ".onnx", marks=pytest.mark.slow),
        pytest.param("ablationcam", "tokens", ".onnx", marks=pytest.mark.slow),
        pytest.param("iscam", "outputs", ".pt2", marks=pytest.mark.slow),
        pytest.param("ablationcam", "last", ".pt2", marks=pytest.mark.slow),
        pytest.param("reciprocam", "last", ".onnx", marks=pytest.mark.slow),
        pytest.param("rise", "inputs", ".pt", marks=pytest.mark.slow),
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
    ("method", "suffix"),
    [
        ("ablationcam", ".pt"),
        pytest.param("scorecam", ".onnx", marks=pytest.mark.slow),
        pytest.param("rise", ".pt2", marks=pytest.mark.slow),
    ],
)
def test_files_of_a_fixed_size(
    method: str, suffix: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    case, model = CASES["skip"], models["skip"]
    explained = case.explain(model, method, dynamic_size=False)
    assert explained.card.image.height == 24
    path = tmp_path / f"model{suffix}"
    check_file(case, model, method, explained, path, (3, 24, 24), (1, 24, 24))


@pytest.mark.parametrize(("method", "suffix"), in_turn_unless_alike())
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


TARGETS: dict[str, Objective] = {"logit": logit, "probability": probability, "finer": finer}


@pytest.mark.parametrize(
    ("method", "target"), in_turn([m for m in OPTIONS if m != "vit-reciprocam"], TARGETS)
)
def test_targets(method: str, target: str, models: dict[str, nn.Module]) -> None:
    for name in ("affine", "skip"):
        case, model = CASES[name], models[name]
        explained = case.explain(model, method, target=target)
        inputs, ids = case.inputs(2, 2, 20, 24), torch.tensor([[1, 3]])
        given = explained(*inputs, ids).saliency_map.numpy()
        expected = case.expected(model, method, inputs, ids, objective=TARGETS[target])
        assert worst_error(given, expected) < TOLERANCE


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


@pytest.mark.parametrize(
    ("method", "suffix"),
    [pytest.param("ablationcam", ".onnx", marks=pytest.mark.slow), ("scorecam", ".pt")],
)
def test_files_of_first_components(
    method: str, suffix: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    case, model, how = CASES["skip"], models["skip"], {"eigen_smooth": True}
    explained, path = case.explain(model, method, **how), tmp_path / f"model{suffix}"
    check_file(case, model, method, explained, path, (3, 30, 20), (1, 25, 37), **how)


@pytest.mark.parametrize("method", first_fast(["ablationcam", "rise", "scorecam", "reciprocam"], 2))
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


@pytest.mark.parametrize("method", first_fast(["ablationcam", "rise", "scorecam", "reciprocam"], 2))
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


@pytest.mark.parametrize(
    "method", first_fast(["ablationcam", "scorecam", "reciprocam", "sscam", "iscam"], 3)
)
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
