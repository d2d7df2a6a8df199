"""A layer whose points were moved is refused, whatever moved them; one that was put back is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export import explain
from tests.export.models import NUM_CLASSES, build
from tests.export.oracle import in_turn

Move = Callable[[Tensor], Tensor]


class Moved(nn.Module):
    """A map that is moved before the layer `after`, and put back behind it if that is asked for."""

    def __init__(self, move: Move, back: Move | None = None) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, NUM_CLASSES)
        self.move, self.back = move, back

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.after(self.move(torch.tanh(self.before(x)))))
        if self.back is not None:
            x = self.back(x)
        return self.fc(torch.tanh(self.last(x)).mean((2, 3)))


class Shuffled(nn.Module):
    """Patches as tokens, in another order than the image's before the layer `token`."""

    def __init__(self, shuffle: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 16, 6, 6), nn.Linear(16, 16)
        self.fc = nn.Linear(16, NUM_CLASSES)
        self.shuffle = shuffle
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("order", torch.randperm(16, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.token(torch.tanh(self.shuffle(tokens, self.order)))
        return self.fc(torch.tanh(tokens).mean(1))


def by_content(tokens: Tensor, order: Tensor) -> Tensor:
    found = tokens.norm(dim=-1).argsort(1)
    return tokens.gather(1, found[:, :, None].expand(-1, -1, tokens.shape[2]))


MOVES: dict[str, tuple[Move, Move]] = {
    "transposed": (lambda x: x.transpose(2, 3), lambda x: x.transpose(2, 3)),
    "upside down": (lambda x: x.flip(2), lambda x: x.flip(2)),
    "mirrored": (lambda x: x.flip(3), lambda x: x.flip(3)),
    "turned": (lambda x: x.rot90(1, (2, 3)), lambda x: x.rot90(-1, (2, 3))),
    "rolled": (lambda x: x.roll((12, 12), (2, 3)), lambda x: x.roll((-12, -12), (2, 3))),
}
SHUFFLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda tokens, order: tokens[:, order],
    "gather": lambda tokens, order: tokens.gather(
        1, order[None, :, None].expand(tokens.shape[0], -1, tokens.shape[2])
    ),
    "by content": by_content,
    "columns first": lambda tokens, order: (
        tokens.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    ),
}
EXAMPLE = torch.zeros(1, 3, 24, 24)


def explained(model: nn.Module, layer: str, method: str = "gradcam") -> Any:
    return explain(model, EXAMPLE, layer=layer, method=method, dynamic_size=False)


@pytest.mark.parametrize(
    ("name", "method"), in_turn(MOVES, ["gradcam", "eigencam", "scorecam", "guided-gradcam"])
)
def test_a_map_that_was_moved(name: str, method: str) -> None:
    move, _ = MOVES[name]
    with pytest.raises(ExportError, match="'after' do not lie in the order of the image's rows"):
        explained(build(lambda: Moved(move)), "after", method)


@pytest.mark.parametrize("name", MOVES)
def test_a_map_that_was_put_back(name: str) -> None:
    model = build(lambda: Moved(*MOVES[name]))
    for layer in ("before", "last"):
        assert explained(model, layer).card.layer == layer


@pytest.mark.parametrize("name", SHUFFLES)
def test_tokens_that_were_moved(name: str) -> None:
    with pytest.raises(ExportError, match=r"order|place|image"):
        explained(build(lambda: Shuffled(SHUFFLES[name])), "token")


def test_tokens_in_their_order() -> None:
    model = build(lambda: Shuffled(lambda tokens, order: tokens))
    assert explained(model, "token").found.layouts[0].grid == (4, 4)


class Everywhere(nn.Module):
    """Every point looks at the whole image: it tells nothing of where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Linear(36, 36)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x))
        x = torch.tanh(self.mix(x.flatten(2))).reshape(x.shape)
        return self.fc((x + x.mean((2, 3), keepdim=True)).mean((2, 3)))


def test_points_that_look_everywhere_are_no_evidence() -> None:
    assert explain(build(Everywhere), EXAMPLE, method="activation").card.layer


class Corners(nn.Module):
    """Points that look at one corner of their cell, as behind strides without padding; perhaps
    `move`d.
    """

    def __init__(self, stride: int, move: Move | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1, stride)
        self.features, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, NUM_CLASSES)
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        x = self.features(x if self.move is None else self.move(x))
        return self.fc(torch.tanh(x).mean((2, 3)))


@pytest.mark.parametrize("stride", [4, 8, 12])
def test_points_that_look_at_a_corner_of_their_cell(stride: int) -> None:
    """A ResNet whose residual branches begin at zero, at 64 x 64, has 2 x 2 such points."""
    assert explained(build(lambda: Corners(stride)), "features").card.layer == "features"


@pytest.mark.parametrize(
    ("name", "stride"), in_turn(["upside down", "mirrored", "transposed", "turned"], [4, 8, 12])
)
def test_corners_that_were_moved(name: str, stride: int) -> None:
    model = build(lambda: Corners(stride, MOVES[name][0]))
    with pytest.raises(ExportError, match="do not lie in the order"):
        explained(model, "features", "eigencam")
