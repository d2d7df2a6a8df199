"""Affine tails are told from others, and need no pass to leave a channel out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.export import explain
from camcore.export.cut import Cut, cut
from camcore.export.families import passes
from camcore.export.find.affine import is_affine
from camcore.export.find.modules import find_activation
from camcore.export.passes.ablation import AblationBody, LinearAblationBody
from camcore.export.passes.recipro import LinearReciproBody, ReciproBody
from camcore.export.trace.trace import trace
from tests.export.models import NUM_CLASSES, build, images
from tests.export.oracle import TOLERANCE, worst_error

EXAMPLE = torch.zeros(1, 3, 12, 12)

# From what the layer returns, (B, 6, 12, 12), and the image to scores (B, N), or features (B, ...).
Tail = Callable[[Tensor, Tensor], Tensor]


class Net(nn.Module):
    """A convolution, and a tail with what weights it may need."""

    def __init__(self, tail: Tail | nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.tail = tail if isinstance(tail, nn.Module) else None
        self.function = tail
        self.fc = nn.Linear(6, NUM_CLASSES)
        self.register_buffer("factors", torch.linspace(-1, 2, 6)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        x = self.function(x, image) if self.tail is None else self.tail(x)
        x = x.flatten(2).mean(2) if x.ndim > 2 else x
        return self.fc(x) if x.shape[1] == 6 else x  # type: ignore[no-any-return]


def half(x: Tensor) -> Tensor:
    return x.chunk(2, dim=1)[0]


def weighed(x: Tensor) -> Tensor:
    """Points that do not count alike: the mean of what is normalised says nothing."""
    return x * torch.linspace(0, 3, 144).reshape(12, 12)


class Kernel(nn.Module):
    """The activation is the weight of a convolution of ones."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return F.conv2d(torch.ones(1, b * c, h, w), x.reshape(b * c, 1, h, w), groups=b * c)


AFFINE: dict[str, Tail | nn.Module] = {
    "nothing": lambda x, image: x,
    "a convolution": nn.Conv2d(6, 6, 3),
    "batch norm": nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)),
    "average pools": nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)),
    "flattened, then linear": nn.Sequential(nn.Flatten(), nn.Linear(6 * 144, NUM_CLASSES)),
    "two linear layers": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 9), nn.Linear(9, 4)
    ),
    "channels last": lambda x, image: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "dropout": nn.Sequential(nn.Dropout(0.5), nn.Conv2d(6, 6, 1), nn.Dropout2d(0.5)),
    "upsampling": lambda x, image: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "padding": lambda x, image: F.pad(x, (1, 0, 1, 0), value=3.0),
    "x + x": lambda x, image: x + x,
    "what passes by": lambda x, image: 2 * x - image.sum(1, keepdim=True).relu(),
    "a gate from before": lambda x, image: x * image.mean((1, 2, 3), keepdim=True).sigmoid(),
    "halves": lambda x, image: torch.cat([half(x), x.split([2, 4], dim=1)[1][:, 1:]], dim=1),
    "its size": lambda x, image: x.sum((2, 3), keepdim=True) / x.shape[2],
    "a matrix product": lambda x, image: (
        torch.eye(12) @ x @ torch.ones(12, 2) / torch.arange(1, 13)[:, None]
    ),
    "one place": lambda x, image: x[:, :, 3, ::2],
    "less": lambda x, image: (-x).sub(1, alpha=0.3).unsqueeze(2).squeeze(2).transpose(2, 3),
}

OTHERS: dict[str, Tail | nn.Module] = {
    "relu": nn.ReLU(),
    "gelu": nn.Sequential(nn.Conv2d(6, 6, 3), nn.GELU()),
    "max pool": nn.MaxPool2d(2),
    "maximum": lambda x, image: x.amax((2, 3)),
    "maximum, of a pair": lambda x, image: x + x.max(dim=1, keepdim=True)[0],
    "softmax": lambda x, image: x.mean((2, 3)).softmax(1),
    "layer norm": lambda x, image: weighed(F.layer_norm(x, (12,))),
    "group norm": nn.GroupNorm(2, 6),
    "instance norm": lambda x, image: weighed(F.instance_norm(x)),
    "batch norm in training": lambda x, image: weighed(F.batch_norm(x, None, None, training=True)),
    "x * x": lambda x, image: x * x,
    "x squared": lambda x, image: x.square(),
    "a gate": lambda x, image: x * x.mean((2, 3), keepdim=True),
    "x @ x": lambda x, image: x @ x,
    "1 / x": lambda x, image: 1 / (x.mean((2, 3)) + 3),
    "a quotient of sums": lambda x, image: image.sum(1, keepdim=True) / (x + 12),
    "a kernel": Kernel(),
    "the absolute value": lambda x, image: x.abs(),
    "rounded quotient": lambda x, image: torch.div(x, 0.5, rounding_mode="floor"),
    "whole numbers": lambda x, image: (5 * x).sum((2, 3), dtype=torch.int64) / 5.0,
    "relu of one half": lambda x, image: x + half(x).relu().sum(1, keepdim=True),
    "addmm": lambda x, image: torch.addmm(x[0, 0], x[0, 0], x[0, 1])[:6].mean(1) + x.mean((2, 3)),
    "a clamp": lambda x, image: x.clamp(-0.1, 0.1),
    "a choice": lambda x, image: torch.where(x > 0, x, 0.2 * x),
}

# They are affine, which is not worth being told.
UNTOLD = {"a kernel"}


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


BODIES = {
    "ablationcam": (LinearAblationBody, AblationBody),
    "reciprocam": (LinearReciproBody, ReciproBody),
}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("ablationcam", {"ratio": 1.0}),
    ("ablationcam", {"ratio": 0.4}),
    ("reciprocam", {}),
    ("reciprocam", {"gaussian": True}),
]


@pytest.mark.parametrize(("method", "options"), ASKED)
@pytest.mark.parametrize("name", AFFINE)
def test_one_pass_back_gives_what_many_passes_give(
    name: str, method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image, ids = build(lambda: Net(AFFINE[name])), images(2, 3, 12, 12), [[1, 3], [2, 0]]
    how: dict[str, Any] = {"method": method, "layer": "conv", **options}
    how |= {"dynamic_size": False, "normalize": False, "relu": False, "full_size": False}
    quick = explain(model, EXAMPLE, **how)
    monkeypatch.setattr(passes, "is_affine", lambda tail: False)
    slow = explain(model, EXAMPLE, **how)
    assert (type(quick.body), type(slow.body)) == BODIES[method]
    class_ids = torch.tensor([*ids, [3, 3]])
    given, expected = (each(image, class_ids).saliency_map.numpy() for each in (quick, slow))
    assert worst_error(given, expected) < TOLERANCE


def test_what_is_explained_must_be_affine_too() -> None:
    """Softmax probabilities are not, nor is anything that is set to another value than 0."""
    model = build(lambda: Net(AFFINE["a convolution"]))
    for how in ({"target": "probability"}, {"target": "finer"}, {"value": 1.0}):
        explained = explain(model, EXAMPLE, method="ablationcam", layer="conv", **how)
        assert type(explained.body) is AblationBody
    explained = explain(model, EXAMPLE, method="ablationcam", layer="conv", target="value")
    assert type(explained.body) is LinearAblationBody
