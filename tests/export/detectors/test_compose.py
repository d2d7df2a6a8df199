"""Which layer a detector is explained at, and what it gives to each product."""

import pytest

from camcore.errors import ExportError
from camcore.export import explain
from tests.export.detectors.conftest import GIVEN
from tests.export.detectors.nets import faster_rcnn, fcos, image, retinanet


def test_the_first_layer_behind_which_all_is_local() -> None:
    card = explain(fcos(), image(0, GIVEN)).card
    assert card.layer.startswith("head.classification_head")
    assert any("looks at more than a window" in note for note in card.notes)
    assert explain(retinanet(), image(0, GIVEN)).card.layer == "backbone"


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("head.regression_head", "gives 0 values that the class scores look at"),
        ("backbone.blocks.0", "choose another layer|choose a layer"),
    ],
)
def test_layers_that_will_not_do(layer: str, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        explain(retinanet(), image(0, GIVEN), layer=layer)


def test_regions_want_their_features() -> None:
    with pytest.raises(ExportError, match=r"expected features \(R, C, h, w\) of each region"):
        explain(faster_rcnn(), image(0, GIVEN), layer="roi_heads.box_head.fc")
