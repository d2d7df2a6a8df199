"""Ids pushed through the gathers of a postprocess tell where each score came from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.graph import CodeGen

from camcore.errors import ExportError
from camcore.export.detectors.origins import APART, find_origins
from camcore.export.trace.graphs import outputs_of


class Postprocess(nn.Module):
    """Two levels, sorted and thresholded in several ways, then picked from once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 1)
        self.second = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for conv, size in ((self.first, 4), (self.second, 2)):
            scores = conv(x[:, :, :size, :size]).permute(0, 2, 3, 1).reshape(1, -1, 3)
            likely = (scores.sigmoid() * 0.5).sqrt()[0].flatten()
            kept = torch.where(likely > 0.2)[0]
            best, _ = likely[kept].topk(5)
            found.append(best)
        every = torch.cat(found)
        return every.sort(descending=True)[0][:7]


def graph_of(module: nn.Module) -> Any:
    torch.manual_seed(0)
    program = torch.export.export(module.eval(), (torch.zeros(1, 2, 4, 4),))
    graph: Any = program.run_decompositions({}).module(check_guards=False)
    graph.graph.set_codegen(CodeGen())
    return graph


@pytest.mark.parametrize("seed", [1, 2])
def test_where_scores_come_from(seed: int) -> None:
    model = Postprocess()
    graph = graph_of(model)
    ids, _, roots = find_origins(graph.graph, outputs_of(graph)[0])
    graph.graph.output_node().args = ((*outputs_of(graph), ids, *roots),)
    graph.graph.lint()
    graph.recompile()
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    scores, found, *products = graph(x)
    torch.testing.assert_close(scores, model(x))
    numbers = [products[each // APART].flatten()[each % APART] for each in found[:, 0]]
    torch.testing.assert_close((torch.stack(numbers).sigmoid() * 0.5).sqrt(), scores)
    assert {int(each // APART) for each in found[:, 0]} == {0, 1}


def test_rows_that_the_image_decides() -> None:
    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(2)[0].t()
            rows = rows[torch.where(rows[:, 0] > 0)[0]]
            return self.linear(rows).softmax(1)[:, 1:].flatten()

    model = Regions()
    graph = graph_of(model)
    ids, _, (root,) = find_origins(graph.graph, outputs_of(graph)[0])
    graph.graph.output_node().args = ((*outputs_of(graph), ids, root),)
    graph.recompile()
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    scores, found, product = graph(x)
    torch.testing.assert_close(product.softmax(1).flatten()[found[:, 0]], scores)


class Parts(nn.Module):
    """Scores behind boxes in one tensor, and the best label of each."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.scores = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        every = torch.cat([self.boxes(x).flatten(2), self.scores(x).flatten(2).sigmoid()], 1)
        return every[0, 4:].max(dim=0)[0].topk(6)[0]


def test_a_part_of_what_was_put_together() -> None:
    model = Parts()
    graph = graph_of(model)
    ids, _, (root,) = find_origins(graph.graph, outputs_of(graph)[0])
    assert root.meta["val"].shape[1] == 3  # of the boxes nothing is followed
    graph.graph.output_node().args = ((*outputs_of(graph), ids, root),)
    graph.graph.lint()
    graph.recompile()
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    scores, found, product = graph(x)
    torch.testing.assert_close(product.flatten()[found[:, 0]].sigmoid(), scores)
    torch.testing.assert_close(scores, model(x))


def test_one_of_several_that_were_stacked() -> None:
    """As the last of a decoder's layers; nothing of the others is followed."""

    class Layers(Parts):
        def forward(self, x: Tensor) -> Tensor:
            first, last = self.scores(x).flatten(), self.scores(x.flip(-1)).flatten()
            return torch.stack([first, last])[-1].sigmoid().topk(3)[0]

    graph = graph_of(Layers())
    _, _, roots = find_origins(graph.graph, outputs_of(graph)[0])
    assert len(roots) == 1


def test_a_slice_across_parts_is_followed_to_all() -> None:
    class Across(Parts):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.boxes(x), self.scores(x)], 1)[:, 3:5].flatten()

    graph = graph_of(Across())
    _, _, roots = find_origins(graph.graph, outputs_of(graph)[0])
    assert len(roots) == 2


def test_an_operator_that_mixes_scores_is_named() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten().cumsum(0)

    graph = graph_of(Mixed())
    with pytest.raises(ExportError, match=r"cannot be followed through the operator aten\.cumsum"):
        find_origins(graph.graph, outputs_of(graph)[0])


class Mixed(Postprocess):
    """Scores of two products at once."""

    def __init__(self, mix: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.first(x), self.second(x)).sigmoid().flatten().topk(5)[0]


@pytest.mark.parametrize(
    "mix",
    [
        torch.add,
        torch.mul,
        lambda a, b: 3 * b - 0.01 * a,
        lambda a, b: torch.where(a > b, a, b),
        lambda a, b: a / (1 + b.exp()),
    ],
)
def test_scores_of_two_products_are_refused(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    graph = graph_of(Mixed(mix))
    with pytest.raises(ExportError, match="it mixes 2 numbers"):
        find_origins(graph.graph, outputs_of(graph)[0])


@pytest.mark.parametrize(
    "of_one",
    [
        lambda a, b: a * a.sigmoid(),
        lambda a, b: torch.where(a > b, a, -1.0),
        lambda a, b: torch.where(a > b, a, torch.zeros_like(a)),
        lambda a, b: a + torch.full_like(a, 2.0),
    ],
)
def test_a_number_beside_itself_or_a_constant(of_one: Callable[[Tensor, Tensor], Tensor]) -> None:
    graph = graph_of(Mixed(of_one))
    _, _, roots = find_origins(graph.graph, outputs_of(graph)[0])
    assert len(roots) == 1
