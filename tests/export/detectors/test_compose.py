"""Which layer a detector is explained at, and what it gives to each product."""

import pytest

from camcore.errors import ExportError
from camcore.export import ExplainedDetector, explain
from camcore.export.detectors.compose import FEW
from tests.export.detectors.checks import check_maps
from tests.export.detectors.conftest import GIVEN
from tests.export.detectors.nets import faster_rcnn, image, retinanet


@pytest.mark.parametrize("explained", ["retinanet"], indirect=True)
def test_the_first_layer(explained: ExplainedDetector) -> None:
    assert explained.card.layer == "backbone"


@pytest.mark.parametrize("explained", ["fcos"], indirect=True)
def test_the_first_layer_behind_which_all_is_local(explained: ExplainedDetector) -> None:
    assert explained.card.layer.startswith("head.classification_head")
    assert any("looks at more than a window" in note for note in explained.card.notes)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("head.regression_head", "gives 0 values that the class scores look at"),
    ],
)
def test_layers_that_will_not_do(layer: str, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        explain(retinanet(), image(0, GIVEN), layer=layer)


@pytest.mark.slow
def test_behind_which_not_all_is_local() -> None:
    """The first block leads to every level, by way of the others."""
    explained = explain(retinanet(), image(0, GIVEN), layer="backbone.blocks.0", method="hirescam")
    assert explained.card.top == FEW
    assert any("takes a pass back of its own" in note for note in explained.card.notes)
    check_maps(explained, 1, FEW)


def test_regions_want_their_features() -> None:
    with pytest.raises(ExportError, match=r"expected features \(R, C, h, w\) of each region"):
        explain(faster_rcnn(), image(0, GIVEN), layer="roi_heads.box_head.fc")
