"""Results without a channel are updated where the operators behind the layer allow it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.export import explain, save
from camcore.export.cut import cut
from camcore.export.find.modules import find_activation, layout_of
from camcore.export.find.updates import Mixture, Norm, Steps, contributions, find_updates, leave_out
from camcore.export.passes.ablation import AblationBody
from camcore.export.passes.loops import weights_of
from camcore.export.trace.trace import trace
from tests.export.models import NUM_CLASSES, build, images
from tests.export.oracle import TOLERANCE, in_turn, run_any_file, worst_error
from tests.export.pass_oracle import Place, maps_of_passes

EXAMPLE = torch.zeros(1, 3, 12, 12)
CHANNELS = 6


class Net(nn.Module):
    """A layer of 6 channels, (B, 6, 12, 12), what is behind it, and a classifier that bends."""

    def __init__(self, *behind: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.behind = nn.Sequential(*behind)
        self.fc = nn.LazyLinear(NUM_CLASSES)
        with torch.no_grad():
            self(EXAMPLE)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.behind(self.conv(image)).tanh().flatten(1))  # type: ignore[no-any-return]


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    """A value that goes into a convolution and past it."""

    def __init__(self, *first: nn.Module) -> None:
        super().__init__()
        self.first = nn.Sequential(*first)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.conv(x)  # type: ignore[no-any-return]


class Shortcut(nn.Module):
    """Two convolutions of one value, as at the beginning of a stage of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(CHANNELS, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5))
        self.shortcut = nn.Sequential(nn.Conv2d(CHANNELS, 5, 1, 2), nn.BatchNorm2d(5, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu() + self.shortcut(x)  # type: ignore[no-any-return]


class Twice(nn.Module):
    """One convolution, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu())  # type: ignore[no-any-return]


REJOIN = Apply(lambda x: x.reshape(-1, 12))

# What is behind the layer, and how many of its results can be updated.
BEHIND: dict[str, tuple[int, Callable[[], list[nn.Module]]]] = {
    "a convolution": (1, lambda: [nn.Conv2d(6, 5, 3, stride=2, padding=1, dilation=2)]),
    "of one point": (1, lambda: [nn.Conv2d(6, 5, 1, stride=3, bias=False)]),
    "batch norm": (1, lambda: [nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5)]),
    "batch norm before": (1, lambda: [nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3)]),
    "activations and pools": (
        1,
        lambda: [nn.Hardswish(), nn.MaxPool2d(2), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(6, 5, 3)],
    ),
    "a stage of a ResNet": (2, lambda: [Shortcut()]),
    "a residual block": (1, lambda: [Residual()]),
    "a residual block behind ReLU": (1, lambda: [Residual(nn.ReLU())]),
    "linear, of all points": (
        1,
        lambda: [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 9)],
    ),
    "linear, of the mean": (1, lambda: [Apply(lambda x: x.tanh().mean((2, 3))), nn.Linear(6, 9)]),
    "the classifier": (1, list),
    "groups": (0, lambda: [nn.Conv2d(6, 4, 3, groups=2)]),
    "a transposed convolution": (0, lambda: [nn.ConvTranspose2d(6, 4, 3)]),
    "a norm of all channels": (0, lambda: [nn.GroupNorm(1, 6), nn.Conv2d(6, 5, 3)]),
    "a mean over channels": (0, lambda: [Apply(lambda x: x.mean((1, 3))), nn.Linear(12, 5)]),
    "other rows": (0, lambda: [Apply(lambda x: x.reshape(-1, 144)), nn.Linear(144, 2), REJOIN]),
    "channels exchanged": (0, lambda: [Apply(lambda x: x.flip(1)), nn.Conv2d(6, 5, 3)]),
    "a weight used twice": (0, lambda: [Twice()]),
}


def make(name: str) -> nn.Module:
    return build(lambda: Net(*BEHIND[name][1]()), shape=(3, 12, 12))


@pytest.mark.parametrize("name", BEHIND)
def test_what_is_updated(name: str) -> None:
    """And that it is what the graph gives where a channel is left out, in double precision."""
    expected, _ = BEHIND[name]
    model = make(name).double()
    traced = trace(model, EXAMPLE.double(), dynamic_size=False)
    node = find_activation(traced, "conv")
    updates = find_updates(traced.graph, node, layout_of(traced, node))
    assert len(updates.ends) == len(updates.mixtures) == expected
    begin = [node, *updates.ends]
    parts = cut(traced.graph, at=begin, kept=begin)
    image = images(3, 2, 12, 12).double()
    activation, *others = parts.head(image)
    results, crossing = others[:expected], others[expected:]
    weights = weights_of(parts.head)
    added = contributions(updates.prefix, activation, 0.7)
    channels = torch.tensor([[2, -1], [5, 0]])
    updated = [
        leave_out(mixture, mixture.pick(weights), *given, channels)
        for mixture, *given in zip(updates.mixtures, results, added, strict=True)
    ]
    for n in range(2):
        ablated = activation.clone()
        for row, channel in zip(ablated, channels[:, n], strict=True):
            if channel >= 0:
                row[channel] = 0.7
        (scores,) = parts.tail(ablated, *(each[n] for each in updated), *crossing)
        wanted = model.fc(model.behind(ablated).tanh().flatten(1))  # type: ignore[operator]
        torch.testing.assert_close(scores, wanted)
        assert n == 1 or not torch.allclose(scores, model(image))


@settings(deadline=None)
@given(data=st.data(), rank=st.integers(1, 3))
def test_any_convolution(data: st.DataObject, rank: int) -> None:
    def of_each_axis(least: int, most: int) -> list[int]:
        return data.draw(st.lists(st.integers(least, most), min_size=rank, max_size=rank))

    kernel, stride, dilation = of_each_axis(1, 3), of_each_axis(1, 3), of_each_axis(1, 2)
    padding, margin = of_each_axis(0, 2), of_each_axis(0, 3)
    size = [1 + d * (k - 1) + m for k, d, m in zip(kernel, dilation, margin, strict=True)]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 4, *size), (3, 4, *kernel))
    )
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    numbers = st.lists(st.integers(-1, 3), min_size=3, max_size=3)
    rows = data.draw(st.lists(numbers, min_size=1, max_size=2))
    mixture = Mixture("w", Steps(stride, padding, dilation), None)
    result = convolve(x, weight, **how)
    found = leave_out(mixture, {"w": weight}, result, x, torch.tensor(rows))
    assert found.shape == (3, *result.shape)
    for n in range(3):
        without = x.clone()
        for b in range(2):
            channel = rows[b % len(rows)][n]
            without[b, channel if channel >= 0 else slice(0, 0)] = 0
        torch.testing.assert_close(found[n], convolve(without, weight, **how))


@pytest.mark.parametrize("gamma", [None, "gamma"])
def test_batch_norm(gamma: str | None) -> None:
    weights = {"w": torch.randn(3, 4), "gamma": torch.rand(3), "variance": torch.rand(3)}
    mixture = Mixture("w", None, Norm(gamma, "variance", 0.1))
    assert set(mixture.pick(weights)) == {"w", "variance", *([gamma] if gamma else [])}

    def run(x: Tensor) -> Tensor:
        y = F.linear(x, weights["w"])
        return F.batch_norm(y, y.mean(0), weights["variance"], weights.get(gamma or ""), eps=0.1)

    x = torch.randn(2, 4)
    found = leave_out(mixture, weights, run(x), x, torch.tensor([[1]]))
    change = F.linear(x * torch.eye(4)[1], weights["w"]) / (weights["variance"] + 0.1).sqrt()
    expected = run(x) - change * (weights["gamma"] if gamma else 1)
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(
    ("name", "suffix"),
    in_turn(["a stage of a ResNet", "linear, of all points"], [".onnx", ".pt2", ".pt"]),
)
def test_files(name: str, suffix: str, tmp_path: Path) -> None:
    model = make(name)
    explained = explain(model, EXAMPLE, method="ablationcam", layer="conv", chunk=4, value=0.2)
    assert isinstance(explained.body, AblationBody)
    path = tmp_path / f"updated{suffix}"
    assert save(explained, path).proof["worst_relative_error"] < TOLERANCE
    maps = []
    for seed, batch, ids in ((5, 1, [[3, 0]]), (6, 3, [[4], [2], [0]])):
        image, classes = images(seed, batch, 12, 12), np.asarray(ids)
        *_, found = run_any_file(path, image, torch.from_numpy(classes)).values()
        expected = maps_of_passes(
            "ablationcam", model, Place("conv"), [image], classes.tolist(), value=0.2
        )
        assert worst_error(found, expected) < TOLERANCE
        maps.append(found)
    assert np.abs(maps[0][0, 0] - maps[1][0, 0]).max() > 0.05


def test_each_weight_is_in_the_file_once(tmp_path: Path) -> None:
    """Under the model's own name, though the loop and what is before it both use it."""
    model = make("a stage of a ResNet")
    path = tmp_path / "once.onnx"
    save(explain(model, EXAMPLE, method="ablationcam", layer="conv"), path)
    initializers = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    for name, weight in model.named_parameters():
        same = [each for each in initializers.values() if list(each.dims) == list(weight.shape)]
        assert weight.ndim < 2 or [each.name for each in same] == [name]
