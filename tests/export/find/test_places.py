"""A layer that has the image turned is drawn upright; one whose points were moved otherwise is
refused, and one that was put back is not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from camcore.errors import ExportError
from camcore.export import explain, save
from camcore.export.find.places import check_level
from camcore.export.find.turns import Turn
from tests.export.models import NUM_CLASSES, build
from tests.export.oracle import first_fast, in_turn

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


def in_windows(x: Tensor) -> Tensor:
    return x.unflatten(2, (2, 12)).flip(3).flatten(2, 3)


def half_mirrored(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :12], x[:, :, 12:].flip(3)], 2)


MOVES: dict[str, tuple[Move, Move]] = {
    "transposed": (lambda x: x.transpose(2, 3), lambda x: x.transpose(2, 3)),
    "upside down": (lambda x: x.flip(2), lambda x: x.flip(2)),
    "mirrored": (lambda x: x.flip(3), lambda x: x.flip(3)),
    "turned": (lambda x: x.rot90(1, (2, 3)), lambda x: x.rot90(-1, (2, 3))),
    "rolled": (lambda x: x.roll((12, 12), (2, 3)), lambda x: x.roll((-12, -12), (2, 3))),
    "rolled a little": (lambda x: x.roll(6, 2), lambda x: x.roll(-6, 2)),
    "in windows": (in_windows, in_windows),
    "half mirrored": (half_mirrored, half_mirrored),
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


OTHERS = ["rolled", "rolled a little", "in windows", "half mirrored"]
TURNS = [name for name in MOVES if name not in OTHERS]


def explained(model: nn.Module, layer: str, method: str = "gradcam") -> Any:
    return explain(model, EXAMPLE, layer=layer, method=method, dynamic_size=False)


@pytest.mark.parametrize(
    "method", first_fast(["gradcam", "eigencam", "scorecam", "guided-gradcam"])
)
@pytest.mark.parametrize("name", first_fast(OTHERS, 4))
def test_a_map_that_was_moved(name: str, method: str) -> None:
    move, _ = MOVES[name]
    with pytest.raises(ExportError, match="'after' do not lie in the order of the image's rows"):
        explained(build(lambda: Moved(move)), "after", method)


class Patch(nn.Module):
    """What one patch of the image, and nothing else, moves the score by; turned before `after`."""

    def __init__(self, move: Move) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, NUM_CLASSES)
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.after(self.move(torch.tanh(self.before(x)))))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(("name", "size"), in_turn(TURNS, [(24, 24), (16, 40)]))
def test_a_map_that_was_turned_is_turned_back(name: str, size: tuple[int, int]) -> None:
    """It is the map of the same layer as the image lies, by hand, and lies on what is there."""
    move, back = MOVES[name]
    model = build(lambda: Patch(move))
    found = explain(model, torch.zeros(1, 3, *size), layer="after", relu=False)
    assert "layer 'after' has the image" in found.card.notes[-1]
    height, width = (2 * side for side in size) if found.card.image.is_any_size else size
    image = torch.zeros(2, 3, height, width)
    image[0, :, 2:6, -8:-2] = 3
    image[1, :, -7:-3, 1:6] = -3
    seen: list[Tensor] = []
    hook = model.after.register_forward_hook(lambda _, __, output: seen.append(output))
    scores = model(image)
    hook.remove()
    (gradient,) = torch.autograd.grad(scores[:, 2].sum(), seen[0])
    by_hand = back((gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1, keepdim=True))
    low, high = by_hand.amin((2, 3), keepdim=True), by_hand.amax((2, 3), keepdim=True)
    given = found(image, torch.tensor([[2]])).saliency_map
    torch.testing.assert_close(given, ((by_hand - low) / (high - low)).detach(), atol=1e-5, rtol=0)
    away = (given - given[..., height // 2, width // 2, None, None]).abs()[0, 0]
    assert away[:8, -10:].max() > 0.5 > away[10:].max()  # the patch at the upper right


@pytest.mark.parametrize(
    "method", ["scorecam", "reciprocam", "ablationcam", "eigencam", "layercam"]
)
def test_every_kind_turns_its_maps(tmp_path: Path, method: str) -> None:
    """The proof, which turns nothing but by the points' numbers, agrees."""
    model = build(lambda: Patch(MOVES["turned"][0]))
    found = explain(model, torch.zeros(1, 3, 12, 20), layer="after", method=method)
    assert save(found, tmp_path / "turned.onnx").notes == found.card.notes


def test_tokens_by_columns_are_turned_back() -> None:
    """`gather` is not followed: that they are transposed, the probe tells."""
    columns = torch.arange(16).reshape(4, 4).T.flatten()

    def shuffle(tokens: Tensor, _: Tensor) -> Tensor:
        return SHUFFLES["gather"](tokens, columns)

    found = explained(build(lambda: Shuffled(shuffle)), "token")
    assert found.found.layouts[0].turn == Turn((1, 0))


@pytest.mark.parametrize("name", first_fast(MOVES))
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


@pytest.mark.parametrize(("name", "stride"), in_turn(TURNS, [4, 8, 12]))
def test_corners_that_were_moved(name: str, stride: int) -> None:
    model = build(lambda: Corners(stride, MOVES[name][0]))
    assert explained(model, "features", "eigencam").found.layouts[0].turn is not None


class Sparse(nn.Module):
    """A map that is zero at most points, transposed before it."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.top, self.fc = nn.ReLU(), nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.top(self.after(self.before(x.transpose(2, 3))) - 1.5)
        return self.fc(x.mean((2, 3)))


def test_points_that_are_mostly_dead() -> None:
    assert explained(build(Sparse), "top", "eigencam").found.layouts[0].turn == Turn((1, 0))


def test_as_many_channels_as_the_image_has_rows() -> None:
    """(B, 8, 16, 8) of an image of 32 x 64: transposed, not channels last."""
    model = build(lambda: Moved(lambda x: x.transpose(2, 3)[:, :, ::4, ::4]))
    layout = explain(model, torch.zeros(1, 3, 32, 64), layer="after").found.layouts[0]
    assert (layout.kind, layout.turn) == ("channels_first", Turn((1, 0)))


class Summed(nn.Module):
    """Tokens with their mean before or behind them."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 16, 6, 6), nn.Linear(16, 16)
        self.fc = nn.Linear(16, NUM_CLASSES)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        parts = [tokens.mean(1, keepdim=True), tokens]
        tokens = self.token(torch.tanh(torch.cat(parts if self.first else parts[::-1], 1)))
        return self.fc(torch.tanh(tokens).mean(1))


def test_a_token_of_all_others_is_no_place() -> None:
    assert explained(build(lambda: Summed(True)), "token").found.layouts[0].prefix == 1
    with pytest.raises(ExportError, match="do not come first"):
        explained(build(lambda: Summed(False)), "token")


@pytest.mark.parametrize("name", first_fast(["transposed", "rolled"]))
def test_biases_of_what_was_moved(name: str) -> None:
    with pytest.raises(ExportError, match=r"fullgrad draws a map of every bias|do not lie in"):
        explain(build(lambda: Moved(MOVES[name][0])), EXAMPLE, method="fullgrad")


@pytest.mark.parametrize("name", ["transposed", "rolled", None])
def test_a_level_of_one_image(name: str | None) -> None:
    """As a detector has them: turned ones are refused as well."""
    move = MOVES[name][0] if name else nn.Identity()
    graph = fx.symbolic_trace(build(lambda: Moved(move)))
    (image,) = graph.graph.find_nodes(op="placeholder")
    image.meta["val"] = EXAMPLE
    level = next(node for node in graph.graph.nodes if node.target == "after")
    if name is None:
        check_level(graph, "after", level)
        return
    with pytest.raises(ExportError, match="'after' do not lie in the order"):
        check_level(graph, "after", level)
