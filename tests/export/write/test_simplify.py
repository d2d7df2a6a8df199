"""Graphs after `simplify` compute the same with less, at any size."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from camcore.export import explain
from camcore.export.gradient.rules.convolutions import STRIDED_DEPTHWISE
from camcore.export.write.capture import capture
from camcore.export.write.fold import fold_reductions, fold_scales
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


class Scaled(nn.Module):
    """A convolution behind a product with `scale`, a tensor or a function of the image."""

    def __init__(self, weight: Tensor, scale: Tensor | None, groups: int, transposed: bool) -> None:
        super().__init__()
        self.weight, self.scale = weight, scale
        self.arguments = ([1, 1], [0, 0], [1, 1], transposed, [0, 0], groups)

    def forward(self, x: Tensor) -> Tensor:
        scale = x[0].mean((1, 2), keepdim=True) if self.scale is None else self.scale
        return aten.convolution(x * scale, self.weight, None, *self.arguments)


def exported(module: nn.Module) -> ExportedProgram:
    return torch.export.export(
        module, (torch.randn(5, 4, 8, 9),), dynamic_shapes=({0: Dim.DYNAMIC},)
    )


def is_folded(program: ExportedProgram) -> bool:
    fold_scales(program.graph, program.graph_signature.user_inputs)
    (convolution,) = program.graph.find_nodes(op="call_function", target=aten.convolution.default)
    return convolution.args[0].op == "placeholder"


@pytest.mark.parametrize(
    ("shape", "groups", "transposed"),
    [
        ((6, 4, 3, 3), 1, False),
        ((4, 6, 3, 3), 1, True),
        ((4, 3, 3, 3), 2, True),
        ((4, 1, 3, 3), 4, False),
        ((8, 1, 3, 3), 4, False),
    ],
)
def test_a_scale_for_each_channel_goes_into_the_weight(
    shape: tuple[int, ...], groups: int, transposed: bool
) -> None:
    module = Scaled(torch.randn(shape), torch.randn(4, 1, 1), groups, transposed)
    program = exported(module)
    assert is_folded(program) is (shape != (8, 1, 3, 3))
    x = torch.randn(2, 4, 8, 9)
    torch.testing.assert_close(program.module(check_guards=False)(x), module(x))


@pytest.mark.parametrize(
    ("scale", "groups"), [(None, 1), (torch.randn(8, 9), 1), (torch.randn(4, 1, 1), 2)]
)
def test_another_product_stays(scale: Tensor | None, groups: int) -> None:
    module = Scaled(torch.randn(6, 4 // groups, 3, 3), scale, groups, transposed=False)
    program = exported(module)
    assert not is_folded(program)
    x = torch.randn(2, 4, 8, 9)
    torch.testing.assert_close(program.module(check_guards=False)(x), module(x))


class Reduced(nn.Module):
    """A function of what a product with a weight (4, 24) gives."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 24))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x[:, :, 0, 0], self.weight)


def twice_of(product: Tensor) -> Tensor:
    return product.reshape(-1, 4, 6).mean(-1) * product.amax()


REDUCED: dict[str, tuple[bool, Callable[[Tensor, Tensor], Tensor]]] = {
    "mean": (True, lambda x, weight: aten.mm(x, weight).view(-1, 4, 3, 2).mean((-1, -2))),
    "sum": (True, lambda x, weight: aten.mm(x, weight).view(-1, 4, 3, 2).sum((2, 3))),
    "two views": (
        True,
        lambda x, weight: aten.mm(x, weight).view(-1, 4, 6).reshape(1, -1, 3, 2).mean((-1, -2)),
    ),
    "rows of rows": (True, lambda x, weight: aten.mm(x, weight).reshape(-1, 6).sum(-1)),
    "across rows": (False, lambda x, weight: aten.mm(x, weight).reshape(-1, 5 * 8).sum(-1)),
    "first axis": (False, lambda x, weight: aten.mm(x, weight).view(-1, 4, 6).mean(0)),
    "kept axes": (False, lambda x, weight: aten.mm(x, weight).view(-1, 4, 6).mean(-1, True)),
    "used twice": (False, lambda x, weight: twice_of(aten.mm(x, weight))),
    "of the input": (False, lambda x, weight: aten.mm(x, x[:4].repeat(1, 6)).view(-1, 6).mean(-1)),
}


@pytest.mark.parametrize("name", REDUCED)
def test_a_weight_is_reduced_before_its_product(name: str) -> None:
    possible, function = REDUCED[name]
    module = Reduced(function).eval()
    program = exported(module)
    fold_reductions(program.graph, program.graph_signature.user_inputs)
    (product,) = program.graph.find_nodes(op="call_function", target=aten.mm.default)
    assert (product.meta["val"].shape[1] < 24) is possible
    for batch in (5, 10):
        x = torch.randn(batch, 4, 8, 9)
        torch.testing.assert_close(program.module(check_guards=False)(x), module(x))


class AllPoints(nn.Module):
    """As AlexNet and VGG: a linear layer of all points of a pooled map, which may be free."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.Tanh())
        self.pool = nn.AdaptiveAvgPool2d((3, 2))
        self.classifier = nn.Sequential(nn.Linear(30, 13), nn.ReLU(), nn.Linear(13, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("free", [True, False])
def test_gradcam_reads_a_value_a_channel_of_a_weight_of_all_points(free: bool) -> None:
    explained = explain(build(AllPoints), torch.zeros(1, 3, 24, 20), dynamic_size=free)
    program = capture(explained)
    fold_reductions(program.graph, program.graph_signature.user_inputs)
    products = program.graph.find_nodes(op="call_function", target=aten.mm.default)
    assert [product.meta["val"].shape[1] for product in products] == [5]
    image = torch.randn(3, 3, *((31, 29) if free else (24, 20)))
    ids = torch.tensor([[1, 0], [2, 3], [3, 1]])
    *_, maps = program.module(check_guards=False)(image, ids)
    torch.testing.assert_close(maps, explained(image, ids).saliency_map, rtol=1e-4, atol=1e-6)
    assert (maps[0] - maps[1]).abs().max() > 0.05
