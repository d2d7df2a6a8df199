"""What is compared of explained detectors."""

import numpy as np
import torch

from camcore.export import ExplainedDetector
from camcore.export.detectors.whole import Whole
from camcore.export.prove.detected import Detected
from tests.export.detectors.conftest import GIVEN, TOP
from tests.export.detectors.nets import image


def check_maps(
    explained: ExplainedDetector, seed: int, top: int = TOP, size: tuple[int, int] = GIVEN
) -> None:
    """Those of another image than the example, beside autograd on the untouched detector."""
    given = explained(image(seed, size))
    request = explained.request
    eager = Whole(request.subject.user_model, request.detections)(image(seed, size))
    for own, expected in zip(given, eager, strict=False):
        torch.testing.assert_close(own, expected.detach(), rtol=0, atol=1e-4)
    reference = Detected.of(request, explained.found, image(seed, size))
    assert given.detection_maps.shape == (top, *size)
    for place, found in enumerate(given.detection_maps):
        np.testing.assert_allclose(found.numpy(), reference.map_of(place), atol=1e-4)
    # Of one image they may be alike: where one convolution is left, a label has the same weights
    # everywhere on a level.
    other = explained(image(seed + 5, size)).detection_maps
    assert (given.detection_maps - other).abs().max() > 0.1
