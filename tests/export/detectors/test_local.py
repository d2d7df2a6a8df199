"""A head cut out of its graph gives the same scores for a window, or for a region, alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.errors import ExportError
from camcore.export.detectors.local import Rows, Window, path
from camcore.export.trace.graphs import outputs_of


class Head(nn.Module):
    """Two ways that meet again, one of which looks further; and a norm of each point."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 6, 5, padding=2)
        self.spread = nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.point = nn.Conv2d(4, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(12, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        far = F.silu(self.norm(self.spread(F.relu(self.wide(x)))))
        near = self.point(x).sigmoid()
        left, right = (far + near).chunk(2, 1)
        return self.last(torch.cat([right, left * 2, near], dim=1))


def graph_of(module: nn.Module, *size: int) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    program = torch.export.export(module.eval(), (torch.zeros(*size),))
    graph: Any = program.run_decompositions({}).module(check_guards=False)
    (start,) = graph.graph.find_nodes(op="placeholder")
    return graph, start, outputs_of(graph)[0]


@pytest.mark.parametrize("place", [(0, 0), (0, 8), (6, 3), (3, 4)])
def test_a_window_anywhere(place: tuple[int, int]) -> None:
    """At the borders too, where convolutions see zeros that the layers before never saw."""
    head = Head()
    window = Window(*graph_of(head, 1, 4, 7, 9))
    assert window.radius == 2 + 2 + 1
    x = torch.randn(1, 4, 7, 9, generator=torch.Generator().manual_seed(1))
    r, (row, column) = window.radius, place
    pad = (r, r, r, r)
    cut = (slice(row, row + 2 * r + 1), slice(column, column + 2 * r + 1))
    exists = F.pad(torch.ones(1, 1, 7, 9), pad)[:, :, *cut]
    given = window(F.pad(x, pad)[:, :, *cut], exists)
    torch.testing.assert_close(given, head(x)[:, :, row, column], rtol=1e-5, atol=1e-6)
    # Without the mask of what exists the border would be another.
    if place != (3, 4):
        wrong = window(F.pad(x, pad)[:, :, *cut], torch.ones_like(exists))
        assert (wrong - given).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1)), "stride"),
        (nn.Sequential(nn.GroupNorm(2, 4)), "group_norm"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1)), "window of fixed size"),
        (nn.Sequential(nn.Conv2d(4, 4, 3)), "3, 3"),
        (nn.Sequential(nn.Conv2d(4, 4, (3, 5), padding=(1, 2))), "3, 5"),
        (nn.Sequential(nn.Softmax(3)), "softmax"),
    ],
)
def test_what_looks_further_is_named(module: nn.Module, told: str) -> None:
    with pytest.raises(ExportError, match=rf"(?s)window of fixed size.*{told}|{told}"):
        Window(*graph_of(module, 1, 4, 7, 9))


def test_rows_of_any_number() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    dims = ({0: torch.export.Dim.DYNAMIC},)
    torch.manual_seed(0)
    program = torch.export.export(
        model.eval(), (torch.zeros(7, 3, 3, 3),), dynamic_shapes=(dims[0],)
    )
    graph: Any = program.run_decompositions({}).module(check_guards=False)
    (start,) = graph.graph.find_nodes(op="placeholder")
    rows = Rows(graph, start, outputs_of(graph)[0])
    x = torch.randn(5, 3, 3, 3)
    torch.testing.assert_close(rows(x), model(x))
    assert path(start, outputs_of(graph)[0])[0] is start


def test_a_second_look_at_the_image_is_refused() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).relu() * x

    graph, _, end = graph_of(Again(), 1, 3, 5, 5)
    start = next(node for node in graph.graph.nodes if "conv2d" in str(node.target))
    with pytest.raises(ExportError, match="looks at the image a second time"):
        Window(graph, start, end)(torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 1, 1))
