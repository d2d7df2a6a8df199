"""Files that compare an image's embedding with queries, which come when they run."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.adapters import load
from camcore.errors import ExportError, InputError
from camcore.export import explain, save
from camcore.export.families import family_of
from camcore.methods import METHODS
from tests.export.models import Transformer, build
from tests.export.oracle import fast_in

LENGTH = 6  # of an embedding
FORMATS = (".onnx", ".pt", ".pt2")


class Tower(nn.Module):
    """Two convolutions and an embedding; `features` is the layer that is explained."""

    def __init__(self, length: int = LENGTH) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU()
        )
        self.embed = nn.Linear(24, length)

    def forward(self, image: Tensor) -> Any:
        return self.embed(self.features(image).mean((2, 3)))


@pytest.fixture(scope="module")
def tower() -> nn.Module:
    return build(Tower)


@pytest.fixture(scope="module")
def file_of(tower: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a format, written where it is asked for."""
    explained = explain(tower, torch.zeros(1, 3, 16, 16), target="similarity", layer="features")

    @cache
    def write(suffix: str) -> Path:
        path = tmp_path_factory.mktemp("queries") / f"tower{suffix}"
        save(explained, path)
        return path

    return write


def by_hand(tower: nn.Module, images: Tensor, queries: Tensor, ids: list[int]) -> np.ndarray:
    """Grad-CAM by autograd, (B, K, H, W), not scaled yet: of cosines with queries (B, Q, D)."""
    maps = []
    activations = tower.get_submodule("features")(images).detach().requires_grad_()
    embedding = tower.get_submodule("embed")(activations.mean((2, 3)))
    cosines = F.cosine_similarity(embedding[:, None], queries, dim=-1)
    for query in ids:
        total = cosines[:, query].sum()
        (gradients,) = torch.autograd.grad(total, activations, retain_graph=True)
        weights = gradients.mean((2, 3), keepdim=True)
        maps.append(torch.relu((weights * activations).sum(1)))
    return torch.stack(maps, dim=1).detach().numpy()


def unit(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min((2, 3), keepdims=True), maps.max((2, 3), keepdims=True)
    return (maps - low) / np.maximum(high - low, 1e-12)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
@pytest.mark.parametrize("count", [2, 5, 40])
def test_as_many_queries_as_one_likes(
    suffix: str, count: int, file_of: Callable[[str], Path], tower: nn.Module
) -> None:
    run, images = load(file_of(suffix)), normal(1, 3, 3, 20, 12)
    for queries in (normal(2, count, LENGTH), normal(3, 3, count, LENGTH)):
        ids = [count - 1, 0]
        given = run(images.numpy(), queries=queries.numpy(), class_ids=ids)
        embedding = tower(images).detach()
        cosines = F.cosine_similarity(embedding[:, None], queries, dim=-1)
        np.testing.assert_allclose(given["embedding"], embedding, atol=1e-5)
        np.testing.assert_allclose(given.scores, cosines, atol=1e-5)
        rows = queries.expand(3, -1, -1)
        raw = by_hand(tower, images, rows, ids)
        small = F.interpolate(torch.from_numpy(unit(raw)), (20, 12), mode="bilinear").numpy()
        np.testing.assert_allclose(given.saliency_map, unit(small), atol=1e-4)


def test_onnxruntime_alone(file_of: Callable[[str], Path]) -> None:
    """One row of queries and of ids serves any batch; -1 is the query most like the image."""
    session = onnxruntime.InferenceSession(file_of(".onnx"))
    names = [port.name for port in session.get_inputs()]
    assert names == ["image", "queries", "class_ids"]
    queries = normal(2, 1, 4, LENGTH).numpy()
    feeds = {"image": normal(1, 5, 3, 16, 16).numpy(), "queries": queries}
    ids = np.array([[-1, 2]])
    embedding, scores, classes, maps = session.run(None, {**feeds, "class_ids": ids})
    assert (scores.shape, maps.shape) == ((5, 4), (5, 2, 16, 16))
    np.testing.assert_array_equal(classes[:, 0], scores.argmax(1))
    lengths = np.linalg.norm(embedding, axis=1)[:, None] * np.linalg.norm(queries[0], axis=1)
    np.testing.assert_allclose(scores, embedding @ queries[0].T / lengths, atol=1e-5)


def test_what_the_card_says(file_of: Callable[[str], Path]) -> None:
    card = load(file_of(".onnx")).card
    assert (card.queries, card.num_classes, card.explained) == (LENGTH, 0, "scores")
    assert card.inputs == ("image", "queries", "class_ids")
    assert card.own_outputs == ("embedding", "scores")
    assert card.options["target"] == "similarity"


def test_the_module_itself_takes_them(tower: nn.Module) -> None:
    explained = explain(tower, torch.zeros(1, 3, 16, 16), target="dot", layer="features")
    images, queries = normal(1, 2, 3, 16, 16), normal(2, 3, LENGTH)
    given = explained(images, queries, class_ids=torch.tensor([[2]]))
    torch.testing.assert_close(given.scores, tower(images) @ queries.T)
    assert given.saliency_map.shape == (2, 1, 16, 16)


def test_an_embedding_among_other_outputs() -> None:
    """The tokens that it was made of are returned as well; they are not what is explained."""

    class Wordy(Tower):
        def forward(self, image: Tensor) -> Any:
            tokens = self.features(image).flatten(2).mT
            return {"tokens": tokens, "pooled": self.embed(tokens.mean(1))[:, :, None, None]}

    net, example = build(Wordy), torch.zeros(1, 3, 16, 16)
    explained = explain(net, example, target="similarity", output="pooled", layer="features")
    assert explained.card.own_outputs == ("tokens", "pooled", "scores")
    assert explained(normal(1, 2, 3, 16, 16), normal(2, 3, LENGTH)).scores.shape == (2, 3)
    with pytest.raises(ExportError, match=r"wants embeddings \(B, D\), .* shape \(1, 64, 24\)"):
        explain(net, example, target="similarity", layer="features")


def test_queries_of_another_length(tower: nn.Module) -> None:
    explained = explain(tower, torch.zeros(1, 3, 16, 16), target="dot")
    with pytest.raises(InputError, match=f"expected \\(Q, {LENGTH}\\)"):
        explained(torch.zeros(1, 3, 16, 16), normal(2, 3, LENGTH + 1))


def test_what_is_not_known_before_the_queries(tower: nn.Module) -> None:
    example = torch.zeros(1, 3, 16, 16)
    with pytest.raises(InputError, match=r"queries come when the file runs"):
        explain(tower, example, target="similarity", layer="features", class_ids="all")
    with pytest.raises(InputError, match=r"no classes but its queries"):
        explain(tower, example, target="dot", layer="features", class_names=["a"] * LENGTH)

    class Scores(Tower):
        def forward(self, image: Tensor) -> Any:
            return {"scores": super().forward(image)}

    with pytest.raises(ExportError, match=r"an output of the model is called 'scores'"):
        explain(build(Scores), example, target="similarity", layer="features")


# `cam` reads the weights of a linear classifier, the others those of attention, or its tokens.
_OTHERS = {"cam", "legrad", "vit-reciprocam"}
_QUICK: dict[str, Any] = {"rise": {"n_masks": 16}, "smoothgradcam++": {"samples": 2}}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["similarity", "dot"])
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("method", sorted(set(METHODS) - _OTHERS))
def test_every_method(
    method: str, suffix: str, target: str, tower: nn.Module, tmp_path: Path
) -> None:
    """`save` compares each with eager PyTorch."""
    layer = "features" if family_of(METHODS[method]).takes_layers else None
    options = _QUICK.get(method, {})
    example = torch.zeros(1, 3, 16, 16)
    explained = explain(tower, example, target=target, method=method, layer=layer, **options)
    save(explained, tmp_path / f"tower{suffix}")


@pytest.mark.slow
def test_legrad_of_a_transformer(tmp_path: Path) -> None:
    net = build(Transformer, shape=(3, 32, 24))
    explained = explain(net, torch.zeros(1, 3, 32, 24), target="similarity", method="legrad")
    assert save(explained, tmp_path / "net.onnx").queries == explained.card.queries


class Scene(NamedTuple):
    image: Tensor
    shapes: tuple[int, int]
    places: tuple[tuple[int, int], tuple[int, int]]


SHAPES = ("square", "cross", "ring", "bars")
_SIDE, _PATCH = 32, 12


def _stamp(shape: int) -> Tensor:
    stamp = torch.zeros(_PATCH, _PATCH)
    if SHAPES[shape] == "square":
        stamp[2:-2, 2:-2] = 1
    elif SHAPES[shape] == "cross":
        stamp[5:7], stamp[:, 5:7] = 1, 1
    elif SHAPES[shape] == "ring":
        stamp[1:-1, 1:-1] = 1
        stamp[3:-3, 3:-3] = 0
    else:
        stamp[::3] = 1
    return stamp


def _scene(generator: torch.Generator) -> Scene:
    """Two different shapes of any colour in two quarters of a noisy picture."""
    image = 0.15 * torch.randn(3, _SIDE, _SIDE, generator=generator)
    shapes = torch.randperm(len(SHAPES), generator=generator)[:2].tolist()
    corners = [(y, x) for y in (2, 18) for x in (2, 18)]
    places = [corners[n] for n in torch.randperm(4, generator=generator)[:2].tolist()]
    for shape, (y, x) in zip(shapes, places, strict=True):
        colour = 0.5 + torch.rand(3, 1, 1, generator=generator)
        image[:, y : y + _PATCH, x : x + _PATCH] += colour * _stamp(shape)
    return Scene(image, tuple(shapes), tuple(places))


class Eye(nn.Module):
    """What it takes to tell the shapes apart, pooled into an embedding."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, wider in ((3, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(channels, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)] if wider == 16 else [nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.embed = nn.Linear(32, 8)

    def forward(self, image: Tensor) -> Any:
        return self.embed(self.features(image).mean((2, 3)))


@pytest.mark.slow
def test_the_map_falls_on_the_shape_that_is_asked_for(tmp_path: Path) -> None:
    """A network that learnt which queries a scene answers, and nothing of where."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(len(SHAPES), 8, generator=generator), dim=-1)
    eye = Eye()
    optimizer = torch.optim.Adam(eye.parameters(), lr=3e-3)
    for _ in range(300):
        scenes = [_scene(generator) for _ in range(64)]
        there = torch.zeros(64, len(SHAPES))
        for row, scene in zip(there, scenes, strict=True):
            row[list(scene.shapes)] = 1
        embedding = eye(torch.stack([scene.image for scene in scenes]))
        cosines = F.cosine_similarity(embedding[:, None], queries, dim=-1)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(8 * cosines, there).backward()
        optimizer.step()
    path = tmp_path / "eye.onnx"
    save(explain(eye.eval(), torch.zeros(1, 3, _SIDE, _SIDE), target="similarity"), path)
    run = load(path).with_queries(queries.numpy(), SHAPES)
    hits = []
    for scene in [_scene(generator) for _ in range(50)]:
        given = run(scene.image[None].numpy(), class_ids=list(scene.shapes))
        for saliency_map, (y, x) in zip(given.saliency_map[0], scene.places, strict=True):
            row, column = np.unravel_index(saliency_map.argmax(), saliency_map.shape)
            hits.append(y - 2 <= row < y + _PATCH + 2 and x - 2 <= column < x + _PATCH + 2)
    assert np.mean(hits) >= 0.9


@pytest.mark.slow
def test_the_image_tower_of_clip(tmp_path: Path) -> None:
    """As the docs have it, from a configuration: the scores are transformers' own."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
        projection_dim=LENGTH,
    )
    tower = build(lambda: transformers.CLIPVisionModelWithProjection(config), shape=(3, 64, 64))
    path, example = tmp_path / "clip.onnx", torch.zeros(1, 3, 64, 64)
    save(explain(tower, example, target="similarity", output="image_embeds"), path)
    images, texts = normal(1, 2, 3, 64, 64), normal(2, 4, LENGTH)
    classify = load(path).with_queries(texts.numpy(), ["a dog", "a cat", "a car", "a tree"])
    given = classify(images.numpy(), class_ids=[0, 1, 2, 3])
    with torch.no_grad():
        embedding = tower(images).image_embeds
    cosines = F.cosine_similarity(embedding[:, None], texts, dim=-1)
    np.testing.assert_allclose(given.scores, cosines, atol=1e-5)
    assert given.saliency_map.shape == (2, 4, 64, 64)
    assert np.ptp(given.saliency_map, axis=(2, 3)).max() > 0.9
