"""A detector's image explained as a whole: beside eager PyTorch, and beside pytorch-grad-cam."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore import eigencam, normalize
from camcore.errors import ExportError, InputError
from camcore.export import ExplainedDetector, explain
from camcore.export.detectors.pyramid import join
from camcore.export.detectors.readings import yolo
from camcore.export.prove.detected import Detected
from tests.export.detectors.conftest import GIVEN
from tests.export.detectors.nets import SIZE, candidates, faster_rcnn, image, ssd


@pytest.fixture(scope="module")
def explained() -> ExplainedDetector:
    """By an image that is neither resized nor padded."""
    found: Any = explain(faster_rcnn(), image(0), method="eigencam")
    return found  # type: ignore[no-any-return]


def test_the_map_is_that_of_pytorch_grad_cam(explained: ExplainedDetector) -> None:
    """But for the sign, which theirs leaves to LAPACK."""
    theirs = pytest.importorskip("pytorch_grad_cam.utils")
    detector: Any = explained.request.subject.user_model
    with torch.no_grad():
        batch, _ = detector.transform([image(1)[0]])
        levels = detector.backbone(batch.tensors).values()
    assert batch.tensors.shape[2:] == SIZE
    named = OrderedDict(zip(("0", "1", "pool"), levels, strict=True))
    joined = theirs.reshape_transforms.fasterrcnn_reshape_transform(named)
    projection = theirs.svd_on_activations.get_2d_projection(joined.numpy())
    # As their `compute_cam_per_layer`: scaled, resized, scaled.
    width_first = SIZE[::-1]
    scale_cam_image = theirs.image.scale_cam_image
    expected = [
        scale_cam_image(scale_cam_image(np.maximum(sign * projection, 0), width_first))
        for sign in (1, -1)
    ]
    given = explained(image(1)).saliency_map[0].numpy()
    assert min(np.abs(given - each).max() for each in expected) < 1e-4


def test_what_it_finds_is_found_all_the_same(explained: ExplainedDetector) -> None:
    given = explained(image(1))
    (eager,) = explained.request.subject.user_model([image(1)[0]])
    torch.testing.assert_close(given.boxes, eager["boxes"].detach())
    assert given.scores.numel() > 3
    assert explained.card.outputs == ("boxes", "labels", "scores", "saliency_map")
    assert explained.card.is_detector
    assert explained.card.shares_map


@pytest.mark.slow
def test_a_map_lies_on_the_image_where_that_is_padded() -> None:
    explained = explain(faster_rcnn(), image(0, GIVEN), method="fem")
    given = explained(image(1, GIVEN)).saliency_map
    eager = Detected.of(explained.request, explained.found, image(1, GIVEN))
    np.testing.assert_allclose(given[0, 0].numpy(), eager.map_of_image(), atol=1e-4)
    assert (given - explained(image(2, GIVEN)).saliency_map).abs().max() > 0.1


def test_levels_are_joined_at_the_size_of_the_coarsest() -> None:
    fine, coarse = torch.randn(1, 2, 8, 12), torch.randn(1, 3, 4, 6)
    expected = torch.cat([F.interpolate(fine.abs(), (4, 6), mode="bilinear"), coarse.abs()], dim=1)
    torch.testing.assert_close(join([fine, coarse], 1), expected)


def test_the_largest_of_a_map_of_each_level() -> None:
    detector: Any = faster_rcnn()
    given = explain(detector, image(0), method="eigencam", combine="max")(image(1, SIZE))
    with torch.no_grad():
        levels = detector.backbone(detector.transform([image(1)[0]])[0].tensors).values()
    maps = []
    for level in levels:
        raw = eigencam(level.abs()).clamp(min=0)
        maps.append(F.interpolate(normalize(raw)[None], SIZE, mode="bilinear"))
    assert len(maps) == 3
    expected = normalize(torch.stack(maps).amax(0))
    torch.testing.assert_close(given.saliency_map, expected, rtol=0, atol=1e-4)
    assert min(float((normalize(each) - expected).abs().max()) for each in maps) > 0.01


def test_a_map_of_each_level_beside_eager() -> None:
    explained: Any = explain(ssd(), image(0, GIVEN), method="fem", combine="max")
    for size in (GIVEN, (61, 40)):
        eager = Detected.of(explained.request, explained.found, image(1, size))
        given = explained(image(1, size)).saliency_map[0, 0].numpy()
        np.testing.assert_allclose(given, eager.map_of_image(), atol=1e-4)


def test_other_detectors_want_layers_and_names() -> None:
    how: dict[str, Any] = {"method": "eigencam", "detections": yolo}
    with pytest.raises(InputError, match="name the layers, one for each level"):
        explain(candidates(), image(0), **how)
    layers = ["levels.0", "levels.1", "levels.2"]
    with pytest.raises(InputError, match="give class_names, for how many there are"):
        explain(candidates(), image(0), layer=layers, **how)


class Shrunk(nn.Module):
    """A backbone with one more level, of a single point."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own, self.out_channels = own, own.out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.own(x)
        return {**found, "3": F.adaptive_avg_pool2d(found["2"], 1)}


@pytest.mark.slow
def test_a_single_point_shows_nothing() -> None:
    model: Any = faster_rcnn()
    model.backbone = Shrunk(model.backbone).eval()
    model.rpn.anchor_generator.sizes = (*model.rpn.anchor_generator.sizes, (48,))
    model.rpn.anchor_generator.aspect_ratios = ((0.5, 1.0),) * 4
    model.rpn.anchor_generator.cell_anchors += model.rpn.anchor_generator.cell_anchors[-1:]
    with pytest.raises(ExportError, match="a single point"):
        explain(model, image(0), method="eigencam")


@pytest.mark.slow
def test_features_of_regions_are_no_level() -> None:
    with pytest.raises(ExportError, match=r"expected levels \(1, C, h, w\) of a pyramid"):
        explain(faster_rcnn(), image(0), method="eigencam", layer="roi_heads.box_roi_pool")
