"""The eager reference of methods of many passes gives what the papers' loops give."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ProofError
from camcore.export import explain, save
from camcore.export.prove.reference import REFERENCES
from tests.export.eager import eagerly
from tests.export.models import Classifier, build, images
from tests.export.oracle import TOLERANCE, worst_error
from tests.export.pass_oracle import Place, finer, maps_of_passes
from tests.export.passing import CASES, DIFFERENT, OPTIONS, pairs_in_turn

pytestmark = pytest.mark.usefixtures("shared_traces")


@pytest.mark.parametrize(("method", "name"), pairs_in_turn(OPTIONS, 1))
def test_maps(method: str, name: str, models: dict[str, nn.Module]) -> None:
    case, model = CASES[name], models[name]
    explained = case.explain(model, method)
    inputs, ids = case.inputs(1, 2, 20, 26), torch.tensor([[4, 0], [2, 3]])
    given = eagerly(explained, inputs, ids)
    assert torch.equal(given.classes, ids)
    expected = case.expected(model, method, inputs, ids)
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    eager = REFERENCES[explained.request.method.needs](explained.request, explained.found)
    run = eager.observe(inputs)
    (raw,), (turned,) = eager.raw_maps(run, ids), eager.raw_maps(run, ids.flip(1))
    torch.testing.assert_close(turned, raw.flip(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        each if n % 2 == 0 else pytest.param(*each, marks=pytest.mark.slow)
        for n, each in enumerate(DIFFERENT)
    ],
)
def test_options(method: str, options: dict[str, Any], models: dict[str, nn.Module]) -> None:
    case, model = CASES["skip"], models["skip"]
    inputs, ids = case.inputs(4, 1, 24, 20), torch.tensor([[1, 3]])
    raw = {"normalize": False, "full_size": False, "relu": False}
    explained = case.explain(model, method, **raw, **options)
    given = eagerly(explained, inputs, ids).saliency_map.numpy()
    expected = case.expected(model, method, inputs, ids, **raw, **options)
    assert worst_error(given, expected) < TOLERANCE


@pytest.mark.parametrize("method", ["ablationcam", "scorecam", "reciprocam", "rise"])
def test_a_target_that_compares_classes(method: str, models: dict[str, nn.Module]) -> None:
    case, model = CASES["skip"], models["skip"]
    explained = case.explain(model, method, target="finer")
    inputs, ids = case.inputs(4, 2, 24, 20), torch.tensor([[1, 3]])
    given = eagerly(explained, inputs, ids).saliency_map.numpy()
    expected = case.expected(model, method, inputs, ids, objective=finer)
    assert worst_error(given, expected) < TOLERANCE


def test_the_model_is_left_as_it_is() -> None:
    case = CASES["skip"]
    model = build(case.make)
    inputs, ids = case.inputs(1, 1, 24, 24), torch.tensor([[1]])
    before, state = model(*inputs), {k: v.clone() for k, v in model.state_dict().items()}
    for method in ("ablationcam", "scorecam", "reciprocam", "rise"):
        explained = case.explain(model, method)
        eagerly(explained, inputs, ids)
    assert torch.equal(model(*inputs), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


class Pair(nn.Module):
    """A layer that returns its tensor in a tuple, and one that follows in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[int]]:
        return self.conv(x), x.shape


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(x)[0].mul_(2).relu_()  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["ablationcam", "scorecam", "reciprocam"])
def test_a_layer_that_returns_a_tuple_before_one_that_works_in_place(method: str) -> None:
    model = build(lambda: Classifier(InPlace(), 6))
    image, ids = images(3, 2, 24, 24), torch.tensor([[1, 2]])
    explained = explain(model, image, method=method, layer="features.pair")
    given = eagerly(explained, (image,), ids).saliency_map.numpy()
    place = Place("features.pair.conv")
    expected = maps_of_passes(method, model, place, (image,), ids.expand(2, -1).tolist())
    assert worst_error(given, expected) < TOLERANCE
    assert worst_error(explained(image, ids).saliency_map.numpy(), expected) < TOLERANCE


def test_a_file_of_other_options_is_not_proven(tmp_path: Any) -> None:
    """The proof fails where the graph does something else than what was asked for."""
    case = CASES["skip"]
    explained = case.explain(build(case.make), "rise")
    wrong = replace(explained.request, options=explained.request.options | {"seed": 5})
    explained._request = (wrong,)
    with pytest.raises(ProofError, match="saliency_map from"):
        save(explained, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
