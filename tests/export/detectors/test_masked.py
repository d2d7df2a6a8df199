"""Ablation-CAM and D-RISE of detections: beside the eager detector, and beside pytorch-grad-cam."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.detector_peer import VALUE, ablation_cam
from camcore.adapters import load
from camcore.errors import InputError, ProofError
from camcore.export import ExplainedDetector, explain, save
from camcore.export.detectors.readings import yolo
from camcore.export.prove.detected import Detected
from tests.export.detectors.nets import (
    LABELS,
    SIZE,
    candidates,
    faster_rcnn,
    image,
    mask_rcnn,
    retinanet,
    ssd,
)
from tests.export.oracle import first_fast

ABLATION: dict[str, Any] = {"method": "ablationcam", "value": VALUE, "top": 4}
RISE: dict[str, Any] = {"method": "rise", "n_masks": 20, "cells": 4, "top": 4}


def check(explained: ExplainedDetector, seed: int) -> Any:
    """Beside the untouched detector, run again with hooks and masks; what is explained moves."""
    with torch.no_grad():
        given = explained(image(seed))
    eager = Detected.of(explained.request, explained.found, image(seed))
    torch.testing.assert_close(given.boxes, eager.found[0].detach(), rtol=0, atol=1e-3)
    if explained.card.shares_map:
        np.testing.assert_allclose(given[-1][0, 0].numpy(), eager.map_of_image(), atol=1e-4)
    else:
        assert given[-1].shape == (4, *SIZE)
        for place, found in enumerate(given[-1]):
            np.testing.assert_allclose(found.numpy(), eager.map_of(place), atol=1e-4)
    assert float(given[-1].max()) == pytest.approx(1)
    return given


NAMES = [f"label {number}" for number in range(LABELS)]

CASES: list[tuple[Any, dict[str, Any]]] = [
    (ssd, RISE),
    (ssd, ABLATION),
    (ssd, ABLATION | {"ratio": 0.5, "combine": "max"}),
    (faster_rcnn, ABLATION),
    (faster_rcnn, ABLATION | {"ratio": 0.5, "target": "matches"}),
    (retinanet, ABLATION | {"target": "matches"}),
    (candidates, RISE | {"target": "matches", "detections": yolo, "class_names": NAMES}),
]


@pytest.mark.parametrize(("make", "how"), first_fast(CASES, 1))
def test_maps(make: Any, how: dict[str, Any]) -> None:
    explained: Any = explain(make(), image(0), **how)
    maps = check(explained, 4)[-1]
    assert (maps - check(explained, 5)[-1]).abs().max() > 0.1


@pytest.mark.slow
def test_the_map_is_that_of_pytorch_grad_cam() -> None:
    """With its layer and its transform for as many levels and channels as there are here."""
    pytest.importorskip("pytorch_grad_cam")
    detector: Any = faster_rcnn()
    given = explain(detector, image(0), **ABLATION, target="matches")(image(1))
    boxes, labels = given.boxes[:4].detach().numpy(), given.labels[:4].numpy()
    with ablation_cam(detector, image(1), boxes, labels, batch_size=3) as theirs:
        expected = theirs()
    found = given.saliency_map[0, 0].detach().numpy()
    assert expected.max() > 0.9
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_masks_stay_among_what_is_found() -> None:
    explained: Any = explain(mask_rcnn(), image(0), **ABLATION)
    with torch.no_grad():
        given = explained(image(4))
    (eager,) = explained.request.subject.user_model([image(4)[0]])
    torch.testing.assert_close(given.masks, eager["masks"].detach(), rtol=0, atol=1e-4)
    assert given.detection_maps.shape == (4, *SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("how", [ABLATION, RISE])
def test_files(how: dict[str, Any], tmp_path: Path) -> None:
    explained: Any = explain(ssd(), image(5), **how)
    assert save(explained, tmp_path / "found.onnx").proof["detections"] >= 4
    given = load(tmp_path / "found.onnx")(image(7).numpy())
    eager = Detected.of(explained.request, explained.found, image(7))
    for place, found in enumerate(given.detection_maps):
        np.testing.assert_allclose(found, eager.map_of(place), atol=1e-3)

    turned = Turned(explained.body)
    wrong = ExplainedDetector(turned, explained.request, explained.found, explained.card).eval()
    with pytest.raises(ProofError, match=r"detection_maps of .* off by"):
        save(wrong, tmp_path / "wrong.onnx")


class Turned(torch.nn.Module):
    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: torch.Tensor) -> Any:
        *found, maps = self.body(image)
        return *found, maps.flip(-1)


def test_the_card_says_how_many_runs_there_are() -> None:
    card = explain(ssd(), image(0), **RISE).card
    assert card.outputs == ("boxes", "labels", "scores", "detection_maps")
    assert (card.options["target"], card.layer, card.top) == ("match", "the image", 4)
    assert any("20 runs of the detector" in note for note in card.notes)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (RISE | {"chunk": 8}, "know no chunk"),
    (RISE | {"layer": "backbone"}, "takes no layer, for it masks the image"),
    (RISE | {"target": "left"}, "explains the target match, matches, got 'left'"),
    (ABLATION | {"combine": "product"}, "know no combine='product'"),
]


@pytest.mark.parametrize(("how", "told"), REFUSED)
def test_what_is_refused(how: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        explain(ssd(), image(0), **how)
