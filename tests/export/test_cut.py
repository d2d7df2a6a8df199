"""Head and tail of a cut, run one after the other, are the model: at any batch and image size."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from camcore.export.cut import cut, repeat_batch
from camcore.export.find.modules import find_activation
from camcore.export.trace.trace import Trace, trace
from tests.export.models import EXAMPLE, Branches, Classifier, build, images
from tests.export.tracing import copied

aten = torch.ops.aten


@cache
def trace_once(model: nn.Module) -> Trace:
    return trace(model, EXAMPLE)


made = cache(build)


def cut_at(model: nn.Module, layer: str) -> Any:
    traced = copied(trace_once(model))
    activation = find_activation(traced, layer)
    return cut(traced.graph, at=[activation], kept=[activation])


def rejoined(parts: Any, image: Tensor) -> Tensor:
    (scores,) = parts.tail(*parts.head(image))
    return scores  # type: ignore[no-any-return]


def placeholders(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def weights_of(graph: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}


SIZES = [(1, 24, 24), (3, 17, 40), (2, 64, 9)]


@pytest.mark.parametrize("layer", ["stem", "block.conv1", "block.norm1", "block", "top.0", "top"])
def test_head_and_tail_are_the_model(small_net: nn.Module, layer: str) -> None:
    parts = cut_at(small_net, layer)
    for shape in SIZES:
        image = images(1, *shape)
        torch.testing.assert_close(rejoined(parts, image), small_net(image))


def test_the_head_returns_what_the_layer_returns(small_net: nn.Module) -> None:
    seen: list[Tensor] = []
    layer = small_net.get_submodule("block.norm1")
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    image = images(1, 3, 17, 40)
    small_net(image)
    handle.remove()
    torch.testing.assert_close(cut_at(small_net, "block.norm1").head(image)[0], seen[0])


def test_the_tail_depends_on_the_activation(small_net: nn.Module) -> None:
    parts = cut_at(small_net, "block.conv1")
    image = images(1, 2, 24, 24)
    activation, *crossing = parts.head(image)
    (scores,) = parts.tail(activation + 1, *crossing)
    assert (scores - small_net(image)).abs().max() > 1e-3


def test_a_skip_connection_crosses(small_net: nn.Module) -> None:
    parts = cut_at(small_net, "block.conv2")
    assert [tuple(value.shape)[1] for value in parts.crossing] == [8]
    assert len(placeholders(parts.tail)) == 2


def test_nothing_crosses_where_nothing_passes_by(small_net: nn.Module) -> None:
    parts = cut_at(small_net, "block")
    assert parts.crossing == ()
    assert len(placeholders(parts.tail)) == 1


def test_each_side_has_its_own_weights(small_net: nn.Module) -> None:
    parts = cut_at(small_net, "block.conv1")
    head, tail = weights_of(parts.head), weights_of(parts.tail)
    assert "stem.0.weight" in head
    assert "fc.weight" in tail
    assert not head & tail
    assert set(dict(small_net.named_parameters())) <= head | tail


def test_a_value_made_of_weights_alone_does_not_cross() -> None:
    """Both sides use the scaled kernel: each makes it from the one stored tensor."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))
            self.mid = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            kernel = self.weight * 0.5
            x = self.mid(nn.functional.conv2d(x, kernel))
            return nn.functional.conv2d(x, kernel).mean((2, 3))

    model = build(Tied)
    parts = cut_at(model, "mid")
    assert parts.crossing == ()
    assert weights_of(parts.head) == weights_of(parts.tail) == {"weight"}
    image = images(1, 3, 17, 40)
    torch.testing.assert_close(rejoined(parts, image), model(image))


class Resized(nn.Module):
    """The tail needs the image's size, which only the head has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, stride=3)
        self.mix = nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.interpolate(self.conv(x), x.shape[2:], mode="bilinear")
        return self.mix(y).mean((2, 3))  # type: ignore[no-any-return]


class Grouped(nn.Module):
    """A size that counts the batch crosses: twelve patches an image, folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.mix = nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = self.mix(self.conv(x).relu().reshape(3 * b, 4, h, w))
        return y.reshape(b, 15, h - 2, w - 2).mean((2, 3))


@pytest.mark.parametrize("make", [Resized, Grouped])
def test_sizes_cross(make: type[nn.Module]) -> None:
    model = made(make)
    parts = cut_at(model, "conv")
    for shape in SIZES:
        image = images(1, *shape)
        torch.testing.assert_close(rejoined(parts, image), model(image))


def test_the_tail_counts_its_own_batch() -> None:
    """A gradient is taken for K classes an image: the tail may see another batch than the head."""
    model = made(Grouped)
    parts = cut_at(model, "conv")
    image = images(1, 2, 24, 24)
    activation, *crossing = parts.head(image)
    (scores,) = parts.tail(torch.cat([activation] * 3), *crossing)
    torch.testing.assert_close(scores, torch.cat([model(image)] * 3))


class Split(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(2, dim=1)[0]


@pytest.mark.parametrize("layer", ["stem", "left", "right", "mixed"])
def test_branches(layer: str) -> None:
    model = made(Branches)
    parts = cut_at(model, layer)
    image = images(1, 3, 17, 40)
    torch.testing.assert_close(rejoined(parts, image), model(image))


def test_at_one_value_of_a_tuple() -> None:
    """The layer returns one half of a split, whose operator returns a tuple."""
    model = build(lambda: Classifier(nn.Sequential(nn.Conv2d(3, 8, 3), Split(), nn.Tanh()), 4))
    parts = cut_at(model, "features.1")
    image = images(1, 3, 17, 40)
    assert parts.head(image)[0].shape[1] == 4
    torch.testing.assert_close(rejoined(parts, image), model(image))


class Bypass(nn.Module):
    """Beside the cut cross: an image's features, the batch folded into a later axis, a table."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.mix = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3)).t().tanh()  # (3, B)
        pair = x.amax((2, 3))[:, None].expand(-1, 2, -1).reshape(-1, 3)  # (2 B, 3), by image
        line = x.shape[3] * torch.linspace(0, 1, 3)
        y = self.mix(self.conv(x)).mean((2, 3))
        y = (y.t()[:3] + means).t()
        return (pair * y[:, None].expand(-1, 2, -1).reshape(-1, 3)).reshape(-1, 2, 3).sum(1) + line


def test_the_axis_of_the_batch() -> None:
    """Of each value that crosses; all that do not count it have none."""
    parts = cut_at(made(Bypass), "conv")
    image = images(1, 7, 17, 40)
    _, *crossing = parts.head(image)
    assert len(crossing) == len(parts.batch_axes) == len(parts.crossing)
    for value, axis in zip(crossing, parts.batch_axes, strict=True):
        if axis is None:
            assert not isinstance(value, Tensor) or 7 not in value.shape
        else:
            assert value.shape[axis] % 7 == 0
    assert sorted(axis for axis in parts.batch_axes if axis is not None) == [0, 1]


@pytest.mark.parametrize("make", [Bypass, Resized, Grouped, Branches])
def test_a_tail_runs_many_batches_at_once(make: type[nn.Module]) -> None:
    model, image = made(make), images(1, 2, 18, 21)
    parts = cut_at(model, "stem" if make is Branches else "conv")
    activation, *crossing = parts.head(image)
    factors = (1.0, 0.5, -1.0)
    (scores,) = parts.tail(
        torch.cat([activation * factor for factor in factors]),
        *repeat_batch(crossing, parts.batch_axes, len(factors)),
    )
    expected = [parts.tail(activation * factor, *crossing)[0] for factor in factors]
    torch.testing.assert_close(scores, torch.cat(expected))
    assert (expected[0] - expected[2]).abs().max() > 1e-3


def test_copies_of_the_whole_batch_one_behind_the_other() -> None:
    rows, columns, size = torch.arange(4).reshape(2, 2), torch.tensor([[5, 6]]), 7
    repeated = repeat_batch([rows, columns, size, columns], [0, 1, None, None], 2)
    assert repeated[0].tolist() == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert repeated[1].tolist() == [[5, 6, 5, 6]]
    assert repeated[2:] == [7, columns]
