"""Positions: coordinates are where an image of its own coordinates says that they are."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from camcore.export.find.positions import Positions, grid_of
from camcore.export.trace.graphs import outputs_of
from camcore.export.trace.trace import trace

HEIGHT, WIDTH = 8, 12
CHANNELS = 3


def windows(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, T, C), window by window of 4 x 4."""
    x = x.unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).transpose(2, 3)
    return x.flatten(1, 4)


def unrolled(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, T, C), the four of a pool as far apart as they can be."""
    x = x.reshape(x.shape[0], HEIGHT // 2, 2, WIDTH // 2, 2, x.shape[3])
    return x.permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], -1, x.shape[-1])


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda x: x.flatten(1, 2),
    "columns": lambda x: x.transpose(1, 2).flatten(1, 2),
    "windows": windows,
    "shifted": lambda x: windows(torch.roll(x, (1, 2), (1, 2))),
    "cropped": lambda x: x[:, 2:-2, 3:-3].reshape(x.shape[0], -1, x.shape[3]),
    "mirrored": lambda x: x.flip(2).flatten(1, 2),
    "split": lambda x: torch.cat(x.chunk(2, dim=2)[::-1], 2).flatten(1, 2),
    "pooled": lambda x: unrolled(x).unflatten(1, (4, -1)).mean(1),
    "maxima": lambda x: unrolled(x).unflatten(1, (4, -1)).max(1).values,
    "one": lambda x: x.mean((1, 2), keepdim=True).flatten(1, 2),
}


class Moving(nn.Module):
    """Makes tokens of its image, and mixes their channels on the way where it is told to."""

    def __init__(self, moves: str, mixing: bool, prefix: int) -> None:
        super().__init__()
        self.moves, self.mixing = MOVES[moves], mixing
        self.others = nn.Parameter(torch.ones(1, prefix, CHANNELS))
        self.linear = nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moves(x.permute(0, 2, 3, 1))
        x = torch.cat([self.others.expand(x.shape[0], -1, -1), x], dim=1)
        if not self.mixing:
            return x
        x = x + F.gelu(self.linear(self.norm(x)))
        q, k, v = self.linear(x).repeat(1, 1, 3).chunk(3, dim=2)
        return x + F.scaled_dot_product_attention(q, k, v)


def axes_of_the_image(node: fx.Node) -> tuple[int, ...] | None:
    return (2, 3) if node.op == "placeholder" else None


def found(model: nn.Module) -> Tensor | None:
    graph = trace(model.eval(), torch.zeros(1, CHANNELS, HEIGHT, WIDTH), dynamic_size=False).graph
    (output,) = outputs_of(graph)
    return Positions(axes_of_the_image).of_tokens(output)


def image_of_coordinates() -> Tensor:
    """(2, 3, H, W): the first image says in which row a point is, the second in which column."""
    rows, columns = torch.meshgrid(
        torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)), indexing="ij"
    )
    middles = torch.stack([(rows + 0.5) / HEIGHT, (columns + 0.5) / WIDTH])
    return middles[:, None].expand(-1, CHANNELS, -1, -1)


@pytest.mark.parametrize("moves", MOVES)
@settings(max_examples=2)
@given(mixing=st.booleans(), prefix=st.integers(0, 2))
def test_coordinates(moves: str, mixing: bool, prefix: int) -> None:
    pooled = "pooled" if moves == "maxima" else moves
    points = Moving(pooled, False, 0)(image_of_coordinates())[..., 0]
    if moves == "one":  # of the whole image, and nowhere in it
        points = torch.full_like(points, math.nan)
    expected = F.pad(points, (prefix, 0), value=math.nan)
    row = found(Moving(moves, mixing, prefix))
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-4, equal_nan=True)


def by_reshape(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, T, 16 C), patches of 4 x 4 as einops cuts them."""
    x = x.unflatten(3, (-1, 4)).unflatten(2, (-1, 4))
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


PATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "reshape": by_reshape,
    "unfold": lambda x: x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3).transpose(1, 2).flatten(2),
    "overlapping": lambda x: (
        x.unfold(2, 4, 2).unfold(3, 6, 3).permute(0, 3, 2, 4, 5, 1).flatten(3).flatten(1, 2)
    ),
    "chunks": lambda x: torch.stack(
        [patch for row in x.split(4, dim=2) for patch in row.split(4, dim=3)], dim=1
    ).flatten(2),
}


class Patches(nn.Module):
    """Embeds the patches of its image without a convolution."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        self.cut = PATCHES[cut]
        width = self.cut(torch.zeros(1, CHANNELS, HEIGHT, WIDTH)).shape[2]
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.cut(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("cut", PATCHES)
def test_a_patch_is_in_the_middle_of_its_points(cut: str) -> None:
    row = found(Patches(cut))
    torch.testing.assert_close(row, PATCHES[cut](image_of_coordinates()).mean(2))


class Unknown(nn.Module):
    """Its tokens are sorted: where each of them comes from depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2).sort(1).values


class MixedTokens(nn.Module):
    """Each of its tokens is made of all."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(HEIGHT * WIDTH, HEIGHT * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2)).transpose(1, 2)  # type: ignore[no-any-return]


class MixedColumns(nn.Module):
    """Each of its tokens is made of the column that it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(HEIGHT, HEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(2, 3)).transpose(2, 3).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Unknown, MixedTokens, MixedColumns])
def test_what_is_not_known(make: type[nn.Module]) -> None:
    assert found(make()) is None


@pytest.mark.parametrize(
    ("moves", "grid", "in_order"),
    [
        ("rows", (HEIGHT, WIDTH), True),
        ("pooled", (HEIGHT // 2, WIDTH // 2), True),
        ("columns", (HEIGHT, WIDTH), False),
        ("windows", (HEIGHT, WIDTH), False),
        ("mirrored", (HEIGHT, WIDTH), False),
    ],
)
def test_grids(moves: str, grid: tuple[int, int], in_order: bool) -> None:
    row = found(Moving(moves, True, 0))
    assert row is not None
    assert grid_of(row) == (grid, in_order)


@pytest.mark.parametrize("tokens", [[0, 1, 2], [0, 1, 3, 3], [0, 0, 0, 0]])
def test_points_that_fill_no_grid(tokens: list[int]) -> None:
    """Too few; one that is twice there, and another not; the same one always."""
    row = torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.25, 0.75, 0.25, 0.75]])
    assert grid_of(row) == ((2, 2), True)
    assert grid_of(row[:, tokens]) is None


def test_one_axis() -> None:
    assert grid_of(torch.tensor([[1, 3, 5]]) / 6) == ((3,), True)
    assert grid_of(torch.tensor([[3, 1, 5]]) / 6) == ((3,), False)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 5))
def test_patches_of_all_of_an_image(patches: int, size: int, left: int) -> None:
    """A rest that is too small for another patch is left out at most."""
    length = patches * size + min(left, size - 1)
    middles = (torch.arange(patches) + 0.5) * size / length
    assume(patches > 1 or length == size)
    assert grid_of(middles[None]) == ((patches,), True)


def test_patches_of_a_part_of_an_image() -> None:
    middles = (torch.arange(8) + 0.5) / 8
    for part in (middles[2:6], middles[:6], middles[:1]):
        assert grid_of(part[None]) is None
    assert found(Moving("cropped", True, 0)) is not None
