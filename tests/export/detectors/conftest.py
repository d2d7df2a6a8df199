"""Explained detectors that several tests look at; each takes seconds, so each is made once."""

from typing import Any

import pytest

from camcore.export import ExplainedDetector, explain
from tests.export.detectors.nets import DETECTORS, image

# Neither the size that the detector resizes to, nor its proportions: it is resized and padded.
GIVEN = (50, 70)
TOP = 5


@pytest.fixture(scope="session")
def detectors() -> dict[str, ExplainedDetector]:
    return {}


@pytest.fixture(params=DETECTORS)
def explained(request: pytest.FixtureRequest, detectors: dict[str, Any]) -> ExplainedDetector:
    """One small detector after the other, explained by Grad-CAM at its default layer."""
    name = request.param
    if name not in detectors:
        detectors[name] = explain(DETECTORS[name](), image(0, GIVEN), top=TOP, relu=False)
    found: ExplainedDetector = detectors[name]
    return found
