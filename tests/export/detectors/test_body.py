"""Maps come in the order of the detections, whatever level each is of, as many as were asked."""

import pytest
import torch

from camcore.export import ExplainedDetector, explain
from tests.export.detectors.conftest import GIVEN, TOP
from tests.export.detectors.nets import image


def test_as_many_maps_as_were_asked_for(explained: ExplainedDetector) -> None:
    given = explained(image(4, GIVEN))
    assert len(given.scores) > TOP == len(given.detection_maps)


@pytest.mark.parametrize("explained", ["retinanet"], indirect=True)
def test_maps_follow_their_detections(explained: ExplainedDetector) -> None:
    """The first map does not depend on how many follow it, nor on the levels that those are of."""
    model, many = explained.request.subject.user_model, explained(image(1, GIVEN))
    few = explain(model, image(0, GIVEN), top=2, relu=False)(image(1, GIVEN))
    torch.testing.assert_close(few.detection_maps, many.detection_maps[:2])
    assert (many.detection_maps[0] - many.detection_maps[1]).abs().max() > 1e-3
