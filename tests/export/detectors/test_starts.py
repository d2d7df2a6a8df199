"""Which layers a detector may be explained at of which nobody knows."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.graph import CodeGen

from camcore.errors import ExportError
from camcore.export.detectors.origins import find_origins
from camcore.export.detectors.readings import detr, yolo
from camcore.export.detectors.starts import likely_layers, starts_of
from camcore.export.detectors.whole import trace_detector
from camcore.export.trace.graphs import outputs_of
from tests.export.detectors.nets import candidates, image, queries


def traced(model: nn.Module, reading: Any) -> Any:
    graph = trace_detector(model, image(0), reading).graph
    graph.graph.set_codegen(CodeGen())
    _, _, roots = find_origins(graph.graph, outputs_of(graph)[2])
    return graph.graph, roots


def test_where_classes_and_boxes_part() -> None:
    graph, roots = traced(candidates(), yolo)
    layers = ("levels.0", "levels.1", "levels.2")
    assert likely_layers(graph, roots)[0] == layers
    starts = starts_of(graph, roots, layers)
    assert [tuple(node.meta["val"].shape[2:]) for node in starts] == [(16, 24), (8, 12), (4, 6)]
    with pytest.raises(ExportError, match="gives 0 values that the class scores look at"):
        starts_of(graph, roots, layers[:1])


def test_the_last_map_of_the_image() -> None:
    graph, roots = traced(queries(), detr)
    assert likely_layers(graph, roots)[-1] == ("projection",)


def test_a_model_without_any() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = nn.Linear(12, 6)

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            logits = self.classes(image[:, 0, :2, :6].reshape(1, 1, 12)).reshape(1, 1, 6)
            return {"logits": logits, "pred_boxes": torch.full((1, 1, 4), 0.5)}

    graph, roots = traced(Flat().eval(), detr)
    with pytest.raises(ExportError, match="name the layers, one for each level"):
        likely_layers(graph, roots)
