"""Detectors that are measured find as much as is wanted, among as many candidates as is told."""

from typing import Any

import pytest
import torch

from benchmarks.detector_subjects import make_picture, make_subject


@pytest.mark.slow
@torch.no_grad()
def test_a_detector_of_torchvision() -> None:
    name, picture = "fasterrcnn_mobilenet_v3_large_320_fpn", make_picture(160, 224)
    subject = make_subject(name, picture, 7)
    detector: Any = subject.detector
    (found,) = detector([picture[0]])
    assert len(found["scores"].unique()) == 7
    detector.roi_heads.nms_thresh, detector.roi_heads.detections_per_img = 1.0, 1000
    (candidates,) = detector([picture[0]])
    assert len(candidates["scores"]) == pytest.approx(70, abs=1)
    with pytest.raises(ValueError, match="objects, expected 100000"):
        make_subject(name, picture, 100_000)


@pytest.mark.slow
@torch.no_grad()
def test_a_detector_of_ultralytics() -> None:
    pytest.importorskip("ultralytics")
    detector, reading, picture = make_subject("yolov8n.yaml", make_picture(160, 224), 7)
    assert reading is not None
    _, _, scores = reading(detector(picture), picture)
    assert len(scores.unique()) == 7
