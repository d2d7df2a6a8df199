"""Modules that are called more than once, or have two names: the call that the image reaches.

Each is compared with a twin in which that call is a module of its own.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError, UnknownNameError
from camcore.export import explain, list_layers, save
from tests.export.models import NUM_CLASSES, build, images
from tests.export.oracle import TOLERANCE, run_any_file, worst_error

EXAMPLE = (torch.zeros(1, 3, 24, 24), torch.zeros(1, 3, 24, 24))
METHODS = {
    "gradcam": {},
    "eigencam": {},
    "smoothgradcam++": {"samples": 2},
    "guided-gradcam": {},
    "shapleycam": {},
    "ablationcam": {},
    "scorecam": {"channels": 3},
    "reciprocam": {},
}


class Siamese(nn.Module):
    """Two images through one backbone, the second one last, and a call that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        first, second = self.body(image), self.body(other)
        self.body(image.flip(3))
        return self.scores(first, second)

    def scores(self, first: Tensor, second: Tensor) -> Tensor:
        both = [torch.tanh(x).mean((2, 3)) for x in (first, second)]
        return self.head(torch.cat(both, 1))


class Twin(Siamese):
    """The same, with a backbone of its own for the image."""

    def __init__(self, siamese: Siamese) -> None:
        super().__init__()
        self.body, self.head = siamese.body, siamese.head
        self.alone = deepcopy(siamese.body)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return self.scores(self.alone(image), self.body(other))


@cache
def siamese_and_twin() -> tuple[Siamese, Twin]:
    siamese: Any = build(Siamese)
    return siamese, Twin(siamese).eval()


@pytest.mark.usefixtures("shared_traces")
@pytest.mark.parametrize("method", METHODS)
def test_the_call_that_the_image_reaches(method: str, tmp_path: Path) -> None:
    """Proven beside a reference that takes the call by autograd, and equal to the twin's map."""
    siamese, twin = siamese_and_twin()
    given, expected = (
        explain(model, EXAMPLE, method=method, layer=layer, dynamic_size=False, **METHODS[method])
        for model, layer in ((siamese, "body"), (twin, "alone"))
    )
    save(given, tmp_path / "model.pt")
    ids = torch.tensor([[0, 3]])
    inputs = images(5, 2, 24, 24), images(6, 2, 24, 24), ids
    *_, found = run_any_file(tmp_path / "model.pt", *inputs).values()
    assert worst_error(found, expected(*inputs).saliency_map.numpy()) < TOLERANCE
    assert found.std() > 0.01


class Twice(nn.Module):
    """A layer called twice on the image's way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(torch.tanh(self.conv(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


def test_the_card_says_that_there_are_several_calls() -> None:
    card = explain(build(Twice), EXAMPLE[0], layer="conv").card
    assert "layer 'conv' is called 2 times; explained is its last call, 'conv@1'" in card.notes
    assert not explain(build(Twice), EXAMPLE[0], layer="stem").card.notes


@cache
def twice_and_apart() -> tuple[nn.Module, nn.Module]:
    model: Any = build(Twice)
    return model, Apart(model).eval()


@pytest.mark.usefixtures("shared_traces")
@pytest.mark.parametrize("method", ["gradcam", "eigencam", "ablationcam", "reciprocam"])
def test_a_call_that_is_chosen(method: str, tmp_path: Path) -> None:
    """Equal to the map of a twin whose calls are modules of their own, and not to the other's."""
    model, twin = twice_and_apart()
    image, ids = images(8, 2, 24, 24), torch.tensor([[1, 4]])
    maps = []
    for layer, alone in (("conv@0", "first"), ("conv@1", "conv")):
        given = explain(model, EXAMPLE[0], method=method, layer=layer)
        assert given.card.layer == layer
        maps.append(given(image, ids).saliency_map)
        expected = explain(twin, EXAMPLE[0], method=method, layer=alone)(image, ids).saliency_map
        assert worst_error(maps[-1].numpy(), expected.numpy()) < TOLERANCE
    assert (maps[0] - maps[1]).abs().max() > 0.01
    save(explain(model, EXAMPLE[0], method=method, layer="conv@0"), tmp_path / "model.pt")


def test_both_calls_as_one_map(tmp_path: Path) -> None:
    model = build(Twice)
    explained = explain(model, EXAMPLE[0], layer=["conv@0", "conv@1"])
    save(explained, tmp_path / "model.pt")
    twin = explain(Apart(model).eval(), EXAMPLE[0], layer=["first", "conv"])
    image, ids = images(9, 2, 24, 24), torch.tensor([[1, 4]])
    torch.testing.assert_close(explained(image, ids), twin(image, ids), rtol=1e-4, atol=1e-5)


def test_calls_are_listed() -> None:
    names = [layer.name for layer in list_layers(build(Twice), EXAMPLE[0])]
    assert names == ["stem", "conv", "conv@0", "conv@1", "fc"]


def test_a_call_that_there_is_not() -> None:
    with pytest.raises(ExportError, match="are conv@0, conv@1"):
        explain(build(Twice), EXAMPLE[0], layer="conv@2")
    with pytest.raises(UnknownNameError, match="cnv"):
        explain(build(Twice), EXAMPLE[0], layer="cnv@1")


class Apart(Twice):
    """The same, with a module for each call."""

    def __init__(self, twice: Twice) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = twice.stem, twice.conv, twice.fc
        self.first = deepcopy(twice.conv)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(torch.tanh(self.first(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


class TwoNames(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.conv

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.again(torch.tanh(self.stem(x)))).mean((2, 3)))


def test_a_module_answers_to_each_of_its_names() -> None:
    model = build(TwoNames)
    image, ids = images(7, 2, 24, 24), torch.tensor([[1, 4]])
    maps = [
        explain(model, EXAMPLE[0], layer=layer)(image, ids).saliency_map
        for layer in ("conv", "again", model.again)
    ]
    assert all(torch.equal(maps[0], each) for each in maps[1:])
    assert maps[0].std() > 0.01
