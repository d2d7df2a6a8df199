"""Keypoints are where torchvision finds them, whatever the size of the box."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from camcore.adapters import load
from camcore.export import explain, save
from camcore.export.detectors.keypoints import find_keypoints
from tests.export.detectors.conftest import GIVEN
from tests.export.detectors.nets import image, keypoint_rcnn


@pytest.mark.parametrize("count", [0, 1, 6])
def test_places_and_scores(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    maps = torch.randn(count, 3, 14, 14, generator=generator)
    corners = 20 * torch.rand(count, 2, generator=generator)
    sides = torch.tensor([40.0, 30.0]) * torch.rand(count, 2, generator=generator)
    rois = torch.cat([corners, corners + sides], dim=1)
    expected = heatmaps_to_keypoints(maps, rois)
    given = find_keypoints(maps, rois, (50, 60))
    assert given[0].shape == (count, 3, 3)
    for found, right in zip(given, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_people_in_a_file(tmp_path: Path) -> None:
    explained: Any = explain(keypoint_rcnn(), image(0, GIVEN), method="hirescam", top=3)
    names = ("boxes", "labels", "scores", "keypoints", "keypoints_scores", "detection_maps")
    assert explained.card.outputs == names
    save(explained, tmp_path / "people.onnx")
    given = load(tmp_path / "people.onnx")(image(7, GIVEN).numpy())
    (eager,) = explained.request.subject.user_model([image(7, GIVEN)[0]])
    assert len(given["keypoints"]) == len(eager["keypoints"]) > 0
    torch.testing.assert_close(
        torch.from_numpy(given["keypoints"]), eager["keypoints"].detach(), rtol=1e-3, atol=1e-2
    )
