"""Graphs after `simplify` compute the same with less, at any size."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from camcore.export import explain
from camcore.export.gradient.rules.convolutions import STRIDED_DEPTHWISE
from camcore.export.write.capture import capture
from camcore.export.write.simplify import simplify
from tests.export.models import SmallNet, build

aten = torch.ops.aten


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return self.function(x, like)


def spread(x: Tensor, like: Tensor) -> Tensor:
    return x[:, :, None, None].expand(-1, -1, *like.shape[2:])


def captured(function: Callable[[Tensor, Tensor], Tensor]) -> ExportedProgram:
    free = {0: Dim.DYNAMIC}
    return torch.export.export(
        Function(function),
        (torch.randn(5, 3), torch.randn(5, 3, 6, 7)),
        dynamic_shapes=(free, {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}),
    )


def count(program: ExportedProgram, *operators: object) -> int:
    return sum(node.target in operators for node in program.graph.nodes)


NEEDLESS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda x, like: spread(x, like).mean((-2, -1)),
    "quotient": lambda x, like: aten.div.Scalar(spread(x, like), 2.0).mean((-1, -2)),
    "positive axes": lambda x, like: spread(x, like).mean((2, 3)),
    "reshaped": lambda x, like: spread(x, like).reshape(1, -1, 3, *like.shape[2:]).mean((-2, -1)),
}
NEEDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "other axes": lambda x, like: spread(x, like).mean((1, 2)),
    "not spread": lambda x, like: like.mean((2, 3)),
    "kept axes": lambda x, like: spread(x, like).mean((2, 3), keepdim=True),
    "one axis spread": lambda x, like: like[:, :, :1].expand_as(like).mean((2, 3)),
    "other sizes": lambda x, like: (
        spread(x, like).reshape(-1, 3, like.shape[3], like.shape[2]).mean((2, 3))
    ),
}


def check_values(program: ExportedProgram, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    for batch, height, width in ((5, 6, 7), (2, 6, 7), (3, 12, 7)):
        x, like = torch.randn(batch, 3), torch.randn(batch, 3, height, width)
        found = program.module(check_guards=False)(x, like)
        torch.testing.assert_close(found, function(x, like))


@pytest.mark.parametrize("name", NEEDLESS)
def test_a_mean_of_equals_goes(name: str) -> None:
    program = captured(NEEDLESS[name])
    assert count(program, aten.mean.dim, aten.expand.default) == 2
    simplify(program.graph)
    assert count(program, aten.mean.dim, aten.expand.default) == 0
    check_values(program, NEEDLESS[name])


def test_a_division_is_done_before_axes_are_added() -> None:
    def function(x: Tensor, like: Tensor) -> Tensor:
        seen = x.view(-1, 3, 1, 1).expand(-1, -1, *like.shape[2:])
        return aten.div.Scalar(seen, 2.0) * like

    program = captured(function)
    simplify(program.graph)
    (division,) = program.graph.find_nodes(op="call_function", target=aten.div.Scalar)
    assert division.meta["val"].ndim == 2
    check_values(program, function)


@pytest.mark.parametrize("name", NEEDED)
def test_another_mean_stays(name: str) -> None:
    function = NEEDED[name]
    program = captured(function)
    simplify(program.graph)
    assert count(program, aten.mean.dim) == 1
    x, like = torch.randn(4, 3), torch.randn(4, 3, 6, 7)
    torch.testing.assert_close(program.module(check_guards=False)(x, like), function(x, like))


PRODUCTS: dict[str, tuple[bool, Callable[[Tensor, Tensor], Tensor]]] = {
    "first": (True, lambda x, like: spread(x, like) * like),
    "second": (True, lambda x, like: like * spread(x, like)),
    "comparison": (True, lambda x, like: spread(x, like) * (like > 0)),
    "both spread": (False, lambda x, like: spread(x, like) * spread(x.exp(), like)),
    "the other is smaller": (False, lambda x, like: spread(x, like) * like[:, :, :1]),
    "a number": (False, lambda x, like: spread(x, like) * 2),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_spreads_by_itself(name: str) -> None:
    needless, function = PRODUCTS[name]
    program = captured(function)
    before = count(program, aten.expand.default)
    assert before
    simplify(program.graph)
    assert count(program, aten.expand.default) == (0 if needless else before)
    check_values(program, function)


def convolved(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    found: Tensor = aten.convolution.default(
        x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
    )
    return found


def mixed(x: Tensor, kernel: int = 1, **how: int) -> Tensor:
    """Through a convolution with a weight that is made in the graph, as on the way back."""
    count = 4 * 3 * kernel**2
    weight = torch.arange(float(count)).reshape(4, 3, kernel, kernel) / count
    return convolved(x, weight, **how)


def used_twice(x: Tensor, like: Tensor) -> Tensor:
    found = mixed(like)
    return found.mean((2, 3)) * found.amax((2, 3))


OWN_WEIGHT = torch.randn(4, 3, 1, 1)


def of_channels(count: int) -> Tensor:
    return torch.linspace(1, 2, count)[:, None, None]


MEANS: dict[str, tuple[bool, Callable[[Tensor, Tensor], Tensor]]] = {
    "convolution": (True, lambda x, like: mixed(like).mean((2, 3))),
    "sum": (True, lambda x, like: (mixed(like) + mixed(like.exp())).mean((-1, -2))),
    "half of a sum": (
        True,
        lambda x, like: (like.repeat(1, 2, 1, 1)[:, :4] + mixed(like)).mean((2, 3)),
    ),
    "reshaped": (
        True,
        lambda x, like: mixed(like).reshape(1, -1, 4, *like.shape[2:]).mean((-2, -1)),
    ),
    "scaled": (True, lambda x, like: (mixed(like) * of_channels(4)).mean((2, 3))),
    "of a scaled value": (
        True,
        lambda x, like: mixed(like * of_channels(like.shape[1])).mean((2, 3)),
    ),
    "larger windows": (False, lambda x, like: mixed(like, 3, padding=1).mean((2, 3))),
    "strides": (False, lambda x, like: mixed(like, stride=2).mean((2, 3))),
    "margin": (False, lambda x, like: mixed(like, padding=1).mean((2, 3))),
    "one axis": (False, lambda x, like: mixed(like).mean(3)),
    "used twice": (False, used_twice),
    "the model's own": (False, lambda x, like: convolved(like, OWN_WEIGHT).mean((2, 3))),
}


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_is_taken_before_channels_are_mixed(name: str) -> None:
    possible, function = MEANS[name]
    program = captured(function)
    simplify(program.graph)
    calls = program.graph.find_nodes(op="call_function", target=aten.convolution.default)
    assert calls
    for call in calls:
        assert (tuple(call.args[0].meta["val"].shape[2:]) == (1, 1)) is possible
    check_values(program, function)


def way_back(like: Tensor) -> Tensor:
    """Through a convolution with steps of (2, 3) and one kernel a channel."""
    kernels, how = torch.linspace(-1, 2, 3 * 15).reshape(3, 1, 5, 3), ([2, 3], [1, 0], [1, 2])
    grad = aten.convolution(like, kernels, None, *how, False, [0, 0], 3).sin()
    found: Tensor = STRIDED_DEPTHWISE(grad, kernels, like.shape[2:], *how)
    return found


def way_back_used_twice(x: Tensor, like: Tensor) -> Tensor:
    back = way_back(like)
    return (back * (like > 0)).mean((2, 3)) * back.amax((2, 3))


MASKED: dict[str, tuple[bool, Callable[[Tensor, Tensor], Tensor]]] = {
    "mask": (True, lambda x, like: (way_back(like) * (like > 0)).mean((2, 3))),
    "factor": (True, lambda x, like: (way_back(like) * like.exp()).mean((-1, -2))),
    "mixed": (
        True,
        lambda x, like: mixed(way_back(like) * (like > 0) * of_channels(3)).mean((2, 3)),
    ),
    "reshaped": (
        True,
        lambda x, like: (
            (way_back(like) * like.exp()).reshape(1, -1, 3, *like.shape[2:]).mean((-2, -1))
        ),
    ),
    "one axis": (False, lambda x, like: (way_back(like) * (like > 0)).mean(3)),
    "smaller factor": (False, lambda x, like: (way_back(like) * like[:, :1]).mean((2, 3))),
    "number": (False, lambda x, like: (way_back(like) * 2).mean((2, 3))),
    "no factor": (False, lambda x, like: way_back(like).mean((2, 3))),
    "used twice": (False, way_back_used_twice),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_mean_is_taken_before_zeros_are_put_between(name: str) -> None:
    possible, function = MASKED[name]
    program = captured(function)
    assert count(program, STRIDED_DEPTHWISE) == 1
    simplify(program.graph)
    assert count(program, STRIDED_DEPTHWISE) == 0
    assert count(program, aten.upsample_nearest2d.default) == (0 if possible else 1)
    check_values(program, function)


def shared(x: Tensor, like: Tensor, axis: int) -> Tensor:
    """Six values a channel, given to the points of `like` in shares of the sums of an axis."""
    given = x[:, :, None] * torch.linspace(-1, 2, 6)
    points = torch.arange(like.shape[2] * like.shape[3])
    inside = (points % 6 >= torch.arange(6)[:, None]).to(like.dtype)
    shares = inside / inside.sum(axis, keepdim=True)
    return (given.reshape(-1, 6) @ shares).reshape(*like.shape)


SHARES: dict[str, tuple[bool, Callable[[Tensor, Tensor], Tensor]]] = {
    "of their sum": (True, lambda x, like: shared(x, like, -1).mean((2, 3))),
    "reshaped": (
        True,
        lambda x, like: shared(x, like, -1).reshape(1, -1, 3, *like.shape[2:]).mean((-1, -2)),
    ),
    "one axis": (False, lambda x, like: shared(x, like, -1).mean(3)),
    "of another sum": (False, lambda x, like: shared(x, like, 0).mean((2, 3))),
    "kept": (False, lambda x, like: shared(x, like, -1).mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("name", SHARES)
def test_a_mean_of_shares_is_a_sum(name: str) -> None:
    possible, function = SHARES[name]
    program = captured(function).run_decompositions()
    assert count(program, aten.mm.default) == 1
    simplify(program.graph)
    assert count(program, aten.mm.default) == (0 if possible else 1)
    check_values(program, function)


def test_a_view_holds_when_the_strides_before_it_change() -> None:
    def function(x: Tensor, like: Tensor) -> Tensor:
        quotient = aten.div.Scalar(spread(x, like), 2.0)
        return quotient.view(quotient.shape[0], -1)

    program = captured(function)
    assert count(program, aten.view.default) == 1
    simplify(program.graph)
    check_values(program, function)
    check_values(program.run_decompositions(), function)


def test_gradcam_behind_pooling_spreads_nothing() -> None:
    explained = explain(build(SmallNet), torch.zeros(1, 3, 24, 24), layer="top")
    assert count(capture(explained), aten.expand.default) == 0
