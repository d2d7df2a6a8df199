"""What holds for every explained model, whatever the images: tried on drawn ones."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import camcore
from camcore.export import Explained, explain
from tests.export.models import EXAMPLE, Classifier, build, images

CLASSES = 5
pytestmark = pytest.mark.usefixtures("shared_traces")


class Scores(nn.Module):
    """A classifier whose scores are scaled, shifted or in another order."""

    def __init__(self, scale: float = 1, shift: float = 0, order: Any = range(CLASSES)) -> None:
        super().__init__()
        layers = nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.GELU()
        self.net = Classifier(nn.Sequential(*layers), 8)
        self.scale, self.shift, self.order = scale, shift, list(order)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)[:, self.order] + self.shift  # type: ignore[no-any-return]


LAYERS = ["net.features.1", "net.features.3"]

# Every road that an image may take through a body.
ROADS: dict[str, dict[str, Any]] = {
    "gradients": {"layer": LAYERS[0]},
    "activations": {"layer": LAYERS[0], "method": "eigencam"},
    "points": {"layer": LAYERS[0], "method": "hirescam", "target": "rest"},
    "several layers": {"layer": LAYERS, "method": "layercam"},
    "contrast": {"layer": LAYERS, "target": "finer"},
    "variants": {"layer": LAYERS[0], "aug_smooth": True, "target": "probability"},
    "component": {"layer": LAYERS[0], "eigen_smooth": True},
}
sizes = st.tuples(st.integers(16, 40), st.integers(16, 40))
seeds = st.integers(0, 10_000)
drawn = settings(max_examples=8)


@cache
def model_of(scale: float = 1, shift: float = 0, order: Any = tuple(range(CLASSES))) -> nn.Module:
    return build(lambda: Scores(scale, shift, order))


@pytest.fixture(scope="module", params=ROADS)
def road(request: pytest.FixtureRequest, shared_traces: None) -> tuple[nn.Module, Explained]:
    model = model_of()
    return model, explain(model, EXAMPLE, **ROADS[request.param])


@drawn
@given(seed=seeds, batch=st.integers(1, 4), size=sizes, data=st.data())
def test_a_batch_gives_what_its_images_give_one_by_one(
    road: Any, seed: int, batch: int, size: tuple[int, int], data: st.DataObject
) -> None:
    _, explained = road
    image = images(seed, batch, *size)
    k = data.draw(st.integers(1, CLASSES))
    rows = st.lists(st.integers(-1, CLASSES - 1), min_size=k, max_size=k)
    ids = torch.tensor(data.draw(st.lists(rows, min_size=batch, max_size=batch)))
    together = explained(image, ids)
    assert together.saliency_map.shape == (batch, k, *size)
    for n in range(batch):
        alone = explained(image[n : n + 1], ids[n : n + 1])
        assert torch.equal(together.classes[n], alone.classes[0])
        torch.testing.assert_close(together.scores[n], alone.scores[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            together.saliency_map[n], alone.saliency_map[0], rtol=0, atol=1e-4
        )


@drawn
@given(seed=seeds, size=sizes, order=st.permutations(range(CLASSES)))
def test_permuting_the_classes_asked_for_permutes_the_maps(
    road: Any, seed: int, size: tuple[int, int], order: list[int]
) -> None:
    _, explained = road
    image = images(seed, 2, *size)
    straight = explained(image, torch.arange(CLASSES)[None])
    permuted = explained(image, torch.tensor([order]))
    torch.testing.assert_close(
        permuted.saliency_map, straight.saliency_map[:, order], rtol=0, atol=1e-5
    )


@drawn
@given(seed=seeds, size=sizes, batch=st.integers(1, 3))
def test_the_models_outputs_are_returned_unchanged(
    road: Any, seed: int, size: tuple[int, int], batch: int
) -> None:
    model, explained = road
    image = images(seed, batch, *size)
    scores = explained(image).scores
    if explained.request.aug_smooth:  # six times the batch may take another kernel
        torch.testing.assert_close(scores, model(image), rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(scores, model(image))


@drawn
@given(seed=seeds)
def test_maps_lie_between_zero_and_one_and_differ(road: Any, seed: int) -> None:
    _, explained = road
    maps = explained(images(seed, 3, 24, 24), torch.arange(CLASSES)[None]).saliency_map
    assert maps.min() >= 0
    assert 0.5 < maps.max() <= 1
    # Of five classes' maps, one at least says something of each image.
    best = maps.flatten(2).amax(2)
    assert (best > 0.5).any(dim=1).all()
    assert (maps[0] - maps[1]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (name, {})
        for name, method in camcore.METHODS.items()
        # With `eps` in a method's options its size is told against the gradients'. cam wants one
        # layer, and noise is another story.
        if method.needs in ("gradients", "activations") and "eps" not in method.options
    ],
)
def test_scaling_and_shifting_the_scores_changes_no_map(
    method: str, options: dict[str, Any]
) -> None:
    """The logit's gradient is scaled, and so is its map, before it is stretched to [0, 1]."""
    image, ids = images(3, 2, 28, 24), torch.tensor([[4, 1, 0]])
    plain, scaled = [
        explain(model, EXAMPLE, method=method, layer=LAYERS[0], target="logit")(image, ids)
        for model in (model_of(), model_of(1000.0, -3.0))
    ]
    torch.testing.assert_close(scaled.scores, 1000 * plain.scores - 3, rtol=1e-4, atol=1e-3)
    # A faint map is made fainter by the stretching's own `eps`.
    assert plain.saliency_map.max() > 0.9
    torch.testing.assert_close(scaled.saliency_map, plain.saliency_map, rtol=0, atol=1e-3)


@pytest.mark.parametrize("target", ["logit", "probability", "rest", "finer"])
def test_a_model_with_its_classes_in_another_order(target: str) -> None:
    order = (3, 0, 4, 1, 2)
    image = images(3, 2, 28, 24)
    straight, permuted = [
        explain(model, EXAMPLE, layer=LAYERS[0], target=target)
        for model in (model_of(), model_of(order=order))
    ]
    ids = torch.arange(CLASSES)[None]
    expected, found = straight(image, torch.tensor([order])), permuted(image, ids)
    torch.testing.assert_close(found.scores, expected.scores[:, list(order)])
    torch.testing.assert_close(found.saliency_map, expected.saliency_map, rtol=0, atol=1e-5)
    assert (found.saliency_map[:, 0] - found.saliency_map[:, 1]).abs().max() > 0.05
    # The best class is the same one under its new number.
    best = permuted(image).classes[:, 0], straight(image).classes[:, 0]
    assert [order[c] for c in best[0].tolist()] == best[1].tolist()


@pytest.mark.parametrize("shift", [40.0, pytest.param(-5.0, marks=pytest.mark.slow)])
def test_shifting_all_scores_changes_no_probability(shift: float) -> None:
    image, ids = images(3, 2, 28, 24), torch.tensor([[4, 1, 0]])
    for target in ("probability", "rest", "finer"):
        plain, shifted = [
            explain(model, EXAMPLE, layer=LAYERS[0], target=target)(image, ids).saliency_map
            for model in (model_of(), model_of(shift=shift))
        ]
        torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-3)
