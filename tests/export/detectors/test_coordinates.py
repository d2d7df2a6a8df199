"""The numbers that a box's coordinate is made of, and its derivative by each, beside autograd."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.graph import CodeGen
from torch.nn import functional as F

from camcore.errors import ExportError, InputError, ProofError, UnknownNameError
from camcore.export import ExplainedDetector, explain, save
from camcore.export.detectors.coordinates import COORDINATES, find_terms
from camcore.export.detectors.origins import APART
from camcore.export.detectors.readings import detr, yolo
from camcore.export.prove.detected import Detected
from camcore.export.trace.graphs import outputs_of
from tests.export.detectors.conftest import GIVEN, TOP
from tests.export.detectors.nets import (
    SIZE,
    candidates,
    faster_rcnn,
    fcos,
    image,
    queries,
    retinanet,
    ssd,
)
from tests.export.oracle import first_fast

Decode = Callable[[Tensor], Tensor]


class Decoder(nn.Module):
    """Boxes (D, 4) of two levels, those whose first number is large, in the order of that."""

    def __init__(self, decode: Decode, numbers: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(2, numbers, 1), nn.Conv2d(2, numbers, 1)])
        self.decode = decode

    def products(self, x: Tensor) -> list[Tensor]:
        return [conv(x[:, :, :size, :size]) for conv, size in zip(self.convs, (4, 2), strict=True)]

    def boxes(self, products: list[Tensor]) -> Tensor:
        rows = [found.permute(0, 2, 3, 1).reshape(-1, found.shape[1]) for found in products]
        decoded = torch.cat([self.decode(each) for each in rows])
        first = torch.cat(rows)[:, 0]
        kept = torch.where(first > 0)[0]
        order = first[kept].sort(descending=True)[1]
        return decoded[kept][order]

    def forward(self, x: Tensor) -> Tensor:
        return self.boxes(self.products(x))


def sizes(rows: Tensor) -> Tensor:
    """As of anchors: centres move, sizes grow, and the image's border cuts them off."""
    dx, dy, dw, dh = rows.unbind(1)
    grown = dw.clamp(max=1.5).exp() * 3
    high = (dh * 0.5).sigmoid() / 2
    corners = [5 * dx - 0.5 * grown, dy - high, 5 * dx + 0.5 * grown, high + dy]
    found = torch.stack(corners, dim=1)
    return torch.stack([found[:, 0::2].clamp(-2, 4), found[:, 1::2]], dim=2).reshape(-1, 4)


def distances(rows: Tensor) -> Tensor:
    """As of points: how far each edge is."""
    scaled = F.relu(rows) * 2
    squares = (rows[:, :2].sigmoid() * 2) ** 2
    return torch.cat([-scaled[:, :2], 1 - rows[:, 2:].tanh() / squares], dim=1)


def expectations(rows: Tensor) -> Tensor:
    """As of distributions: each edge is the mean of three places."""
    bins = rows.reshape(-1, 4, 3).permute(2, 1, 0)[None]  # (1, 3, 4, D)
    weight = torch.arange(3.0).reshape(1, 3, 1, 1)
    return F.conv2d(bins.softmax(1), weight)[0, 0].transpose(0, 1)


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize(
    ("decode", "numbers"), [(sizes, 4), (distances, 4), (expectations, 12)], ids=lambda x: ""
)
def test_derivatives(decode: Decode, numbers: int, coordinate: str) -> None:
    torch.manual_seed(0)
    model = Decoder(decode, numbers).eval()
    program = torch.export.export(model, (torch.zeros(1, 2, 4, 4),))
    graph: Any = program.run_decompositions({}).module(check_guards=False)
    graph.graph.set_codegen(CodeGen())
    boxes = outputs_of(graph)[0]
    ids, slopes, roots = find_terms(graph.graph, boxes, coordinate, frozenset())
    assert len(roots) == 2
    graph.graph.output_node().args = ((boxes, ids, slopes),)
    graph.graph.lint()
    graph.recompile()

    x = 2 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    found, ids, slopes = graph(x)
    products = [each.detach().requires_grad_() for each in model.products(x)]
    expected = model.boxes(products)
    torch.testing.assert_close(found, expected)
    assert len(found) > 4
    moved = 0
    for box, own, slope in zip(expected, ids, slopes, strict=True):
        wanted = sum(sign * box[axis] for axis, sign in COORDINATES[coordinate])
        gradients = torch.autograd.grad(wanted, products, retain_graph=True)
        flat = torch.cat([each.flatten() for each in gradients])
        places = own // APART * products[0].numel() + own % APART
        torch.testing.assert_close(torch.zeros_like(flat).index_add(0, places, slope), flat)
        moved += int(flat.any())
    assert moved > 2


def test_an_operator_that_decodes_nothing_is_named() -> None:
    program = torch.export.export(Decoder(lambda x: x.cumsum(1)), (torch.zeros(1, 2, 4, 4),))
    graph: Any = program.run_decompositions({}).module(check_guards=False)
    with pytest.raises(ExportError, match=r"cannot be followed through the operator aten\.cumsum"):
        find_terms(graph.graph, outputs_of(graph)[0], "left", frozenset())


CASES: list[tuple[Any, str, dict[str, Any], tuple[int, int]]] = [
    (queries, "left", {"detections": partial(detr, score=0.2), "top": 3}, SIZE),
    (ssd, "height", {}, GIVEN),
    (candidates, "right", {"detections": yolo}, SIZE),
    (retinanet, "bottom", {}, GIVEN),
    (faster_rcnn, "width", {}, GIVEN),
    (fcos, "top", {}, GIVEN),
]


@pytest.mark.parametrize(("make", "target", "how", "size"), first_fast(CASES, 2))
def test_maps_of_a_coordinate(
    make: Any, target: str, how: dict[str, Any], size: tuple[int, int]
) -> None:
    asked: dict[str, Any] = {"top": TOP} | how
    explained: Any = explain(make(), image(0, size), target=target, relu=False, **asked)
    assert (explained.card.options["target"], explained.card.explained) == (target, "boxes")
    given = explained(image(1, size))
    eager = Detected.of(explained.request, explained.found, image(1, size))
    expected = [torch.as_tensor(eager.map_of(place)) for place in range(asked["top"])]
    assert max(float(each.max()) for each in expected) == pytest.approx(1, abs=1e-6)
    for found, wanted in zip(given.detection_maps, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4)


def test_another_coordinate_is_refused_by_the_proof(tmp_path: Path) -> None:
    how: dict[str, Any] = {"detections": partial(detr, score=0.2), "top": 3}
    left: Any = explain(queries(), image(0), target="left", **how)
    assert save(left, tmp_path / "left.onnx").proof["detections"] >= 6
    right: Any = explain(queries(), image(0), target="right", **how)
    wrong = ExplainedDetector(right.body, left.request, left.found, left.card).eval()
    with pytest.raises(ProofError, match=r"detection_maps of .* off by"):
        save(wrong, tmp_path / "wrong.pt2")


def test_what_has_no_coordinate() -> None:
    with pytest.raises(UnknownNameError, match="unknown target 'probability'; nearest"):
        explain(ssd(), image(0, GIVEN), target="probability")
    with pytest.raises(
        InputError, match="eigencam of a detector explains the target logit, got 'left'"
    ):
        explain(ssd(), image(0, GIVEN), method="eigencam", target="left")


def test_the_class_is_explained_otherwise() -> None:
    """That its maps are not those of the box: what is compared above can tell."""
    how: dict[str, Any] = {"detections": partial(detr, score=0.2), "top": 3, "relu": False}
    (of_class, of_box) = (
        explain(queries(), image(0), target=target, **how)(image(1)).detection_maps
        for target in ("logit", "left")
    )
    assert (of_class - of_box).abs().max() > 0.1
