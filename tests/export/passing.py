"""Models for methods of many passes, and what their maps and files are compared with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.export import Explained, explain, save
from camcore.methods import METHODS
from tests.export.models import (
    NUM_CLASSES,
    Classifier,
    SmallNet,
    Transformer,
    images,
)
from tests.export.oracle import TOLERANCE, run_any_file, worst_error
from tests.export.pass_oracle import Objective, Place, maps_of_passes, probability

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


def telling(method: str) -> float:
    """How far maps differ at least: twelve random masks show little but themselves."""
    return 10 * TOLERANCE if method == "rise" else 0.05


def fits(method: str, name: str) -> bool:
    return method != "vit-reciprocam" or name == "tokens"


PAIRS = [(method, name) for method in OPTIONS for name in CASES if fits(method, name)]


def pairs_in_turn(methods: Iterable[str], first: int) -> list[Any]:
    """Each of these methods with a third of the models in turn, with the others if slow."""
    places = [(list(OPTIONS).index(method), list(CASES).index(name)) for method, name in PAIRS]
    return [
        pair
        if (m + n) % 3 == first or pair[0] == "vit-reciprocam"
        else pytest.param(*pair, marks=pytest.mark.slow)
        for pair, (m, n) in zip(PAIRS, places, strict=True)
        if pair[0] in methods
    ]


def check_maps(method: str, name: str, models: dict[str, nn.Module]) -> None:
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


def check_options(method: str, options: dict[str, Any], models: dict[str, nn.Module]) -> None:
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


def options_of(*methods: str) -> list[tuple[str, dict[str, Any]]]:
    return [(method, options) for method, options in DIFFERENT if method in methods]


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


def positive(model: nn.Module) -> nn.Module:
    """The peer divides by the score and not by its size: these are above 0."""
    model.get_submodule("fc").bias.data.add_(20.0)
    return model
