"""Modules that are called more than once, or have two names: the call that the image reaches.

Each is compared with a twin in which that call is a module of its own.
"""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from camcore.export import explain, save
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


@pytest.mark.parametrize("method", METHODS)
def test_the_call_that_the_image_reaches(method: str, tmp_path: Path) -> None:
    """Proven beside a reference that takes the call by autograd, and equal to the twin's map."""
    siamese = build(Siamese)
    twin = Twin(siamese).eval()
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
    assert "layer 'conv' is called 2 times; explained is its last call" in card.notes
    assert not explain(build(Twice), EXAMPLE[0], layer="stem").card.notes


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
