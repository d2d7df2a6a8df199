"""Products with weights, done once to the weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from camcore.export import explain
from camcore.export.write.capture import capture
from camcore.export.write.fold import fold_reductions, fold_scales
from tests.export.models import build

aten = torch.ops.aten


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
