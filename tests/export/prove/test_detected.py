"""One run of the user's detector: what it finds stems from the numbers that autograd tells."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from camcore.export.prove.detected import Detected
from camcore.export.request import Found
from tests.export.detectors.nets import faster_rcnn, image, retinanet, ssd

GIVEN = (50, 70)


@pytest.mark.parametrize("make", [ssd, faster_rcnn, retinanet])
def test_a_score_of_one_is_told_by_its_box(make: Any) -> None:
    """In single precision nothing raises it; its box is moved, unless that fills the image."""
    request: Any = SimpleNamespace(subject=SimpleNamespace(user_model=make()), detections=None)
    layer = "roi_heads.box_roi_pool" if make is faster_rcnn else "backbone"
    found = Found(layers=(layer,), layouts=(), place=layer)
    eager = Detected.of(request, found, image(1, GIVEN))
    flat = 1 + 0 * sum(product.sum() for product in eager.products)
    certain = replace(eager, found=[*eager.found[:2], flat * torch.ones_like(eager.found[2])])
    told = [certain.origin(place) for place in range(12)]
    expected = [eager.origin(place) for place in range(12)]
    assert [known in (None, right) for known, right in zip(told, expected, strict=True)] == [
        True
    ] * 12
    assert len([known for known in told if known is not None]) >= 4
