"""Ports and classes that a card cannot have; what it says is in the tests of `explain`."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from camcore.card import Card, ImageSpec
from camcore.errors import ExportError
from camcore.export.cards import check_ports, classes_of
from camcore.export.trace.trace import trace

CARD = Card(
    method="gradcam",
    layer="top",
    image=ImageSpec(None, None),
    num_classes=4,
    outputs=("scores", "classes", "saliency_map"),
)


def test_ports_of_the_models_own_name() -> None:
    check_ports(CARD)
    own = replace(CARD, outputs=("boxes", *CARD.outputs), explained="scores")
    check_ports(own)
    with pytest.raises(ExportError, match=r"called \['boxes'\], as a file with boxes has"):
        check_ports(replace(own, outputs=(*own.outputs, "boxes", "box_scores"), boxes=3))
    with pytest.raises(ExportError, match="takes its passes in steps"):
        check_ports(replace(CARD, inputs=("image", "state"), steps=7))


def test_how_many_classes() -> None:
    image = torch.zeros(2, 3, 8, 8)
    scores = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert classes_of(trace(scores, image), queries=False) == 4
    assert classes_of(trace(scores, image), queries=True) == 0
    points = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Flatten()).eval()
    with pytest.raises(ExportError, match=r"expected scores \(B, N\): a row for each image"):
        classes_of(trace(points, image), queries=False)
