"""Affine tails are told from others, and need no pass to leave a channel out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from camcore.export.cut import Cut, cut
from camcore.export.find.affine import is_affine
from camcore.export.find.modules import find_activation
from camcore.export.trace.trace import trace
from tests.export.affine import AFFINE, EXAMPLE, OTHERS, UNTOLD, Net, Tail
from tests.export.models import build, images


def parts_of(tail: Tail | nn.Module) -> Cut:
    traced = trace(build(lambda: Net(tail)), EXAMPLE, dynamic_size=False)
    activation = find_activation(traced, "conv")
    return cut(traced.graph, at=[activation], kept=[activation])


def bend(parts: Cut, image: Tensor) -> float:
    """How far f(a) + f(b) is from f(a + b) + f(0), which are equal where f is affine."""
    a, *crossing = parts.head(image)
    b = a.flip(0, 2)

    def f(activation: Tensor) -> Tensor:
        found: Tensor = parts.tail(activation, *crossing)[-1]
        return found

    whole = f(a + b) + f(0 * a)
    return float((f(a) + f(b) - whole).abs().max() / (1 + f(a).abs().max()))


@pytest.mark.parametrize("name", AFFINE)
def test_affine(name: str) -> None:
    parts = parts_of(AFFINE[name])
    assert is_affine(parts.tail)
    assert bend(parts, images(1, 2, 12, 12)) < 1e-5


@pytest.mark.parametrize("name", OTHERS)
def test_not_affine(name: str) -> None:
    parts = parts_of(OTHERS[name])
    assert not is_affine(parts.tail)
    if name not in UNTOLD:
        assert bend(parts, images(1, 2, 12, 12)) > 1e-4


BENT = ("relu", "gelu", "max pool", "x squared", "the absolute value", "a clamp", "a choice")
STRAIGHT = ("nothing", "average pools", "padding", "x + x", "halves", "upsampling", "less")


class Chain(nn.Module):
    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.parts = [(AFFINE | OTHERS)[name] for name in names]

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x) if isinstance(part, nn.Module) else part(x, x)
            x = x[:, :, :12, :12]
        return x


@settings(max_examples=8)
@given(names=st.lists(st.sampled_from([*STRAIGHT, *STRAIGHT, *BENT]), max_size=4))
def test_a_chain_is_affine_if_all_its_links_are(names: list[str]) -> None:
    parts = parts_of(Chain(names))
    assert is_affine(parts.tail) == (not set(names) & set(BENT))
