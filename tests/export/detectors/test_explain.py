"""Explained detectors beside eager torchvision and autograd, and what they refuse."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from camcore.errors import ExportError, InputError
from camcore.export import Detections, ExplainedDetector, explain
from camcore.export.detectors.explain import count_labels, default_layers, frame_of
from camcore.export.detectors.geometry import Frame
from camcore.export.detectors.readings import detr, yolo
from camcore.export.prove.detected import Detected
from tests.export.detectors.checks import check_maps
from tests.export.detectors.conftest import GIVEN, TOP
from tests.export.detectors.nets import (
    LABELS,
    SIZE,
    candidates,
    faster_rcnn,
    fcos,
    image,
    mask_rcnn,
    queries,
    retinanet,
    ssd,
)
from tests.export.oracle import first_fast


@pytest.mark.parametrize(("seed", "size"), [(0, GIVEN), (1, (61, 40)), (2, (33, 130))])
def test_detections_and_maps(
    explained: ExplainedDetector, seed: int, size: tuple[int, int]
) -> None:
    assert isinstance(explained(image(seed, size)), Detections)
    check_maps(explained, seed, size=size)


@pytest.mark.parametrize(
    ("make", "layer", "method"),
    first_fast(
        [
            (retinanet, "head.classification_head.conv.1", "hirescam"),
            (faster_rcnn, "roi_heads.box_roi_pool", "gradcam++"),
            (ssd, "backbone", "gradcam-elementwise"),
            (retinanet, "backbone", "layercam"),
            (retinanet, "backbone", "xgradcam"),
            (faster_rcnn, "roi_heads.box_head.conv", "gradcam"),
            (faster_rcnn, "roi_heads.box_roi_pool", "eigengradcam"),
        ],
        1,
    ),
)
def test_methods_and_layers(make: Any, layer: str, method: str) -> None:
    how: dict[str, Any] = {"method": method, "layer": layer, "top": TOP, "relu": False}
    check_maps(explain(make(), image(0, GIVEN), **how), 1)


def test_where_nothing_is_found(detectors: dict[str, ExplainedDetector]) -> None:
    model: Any = retinanet()
    model.score_thresh = 0.999999
    given = explain(model, image(0, GIVEN))(image(1, GIVEN))
    assert [tuple(each.shape) for each in given] == [(0, 4), (0,), (0,), (0, *GIVEN)]


def test_the_card(explained: ExplainedDetector) -> None:
    card = explained.card
    assert card.is_detector
    assert card.outputs == ("boxes", "labels", "scores", "detection_maps")
    assert card.inputs == ("image",)
    assert (card.top, card.num_classes) == (TOP, LABELS)
    assert card.image.is_any_size
    assert set(card.image.mean) == {0.0}


@pytest.mark.slow
def test_a_head_that_normalises_is_explained_behind_it_unless_asked_for() -> None:
    """In front of it each detection takes a pass back."""
    assert default_layers(fcos())[0] == ("backbone",)
    explained = explain(fcos(), image(0, GIVEN), layer="backbone", method="hirescam", top=3)
    check_maps(explained, 1, 3)


@pytest.mark.parametrize(
    ("make", "reading", "layers"),
    [
        (candidates, yolo, ("levels.0", "levels.1", "levels.2")),
        (queries, partial(detr, score=0.2), ("projection",)),
    ],
)
def test_models_that_return_all_their_candidates(make: Any, reading: Any, layers: Any) -> None:
    how: dict[str, Any] = {"detections": reading, "method": "hirescam", "relu": False, "top": 3}
    explained = explain(make(), image(0), **how)
    assert explained.found.layers == layers
    check_maps(explained, 1, 3, SIZE)


@pytest.mark.slow
def test_masks_stay_among_what_is_found() -> None:
    explained = explain(mask_rcnn(), image(0, GIVEN), method="hirescam", relu=False)
    given = explained(image(1, GIVEN))
    assert given._fields == ("boxes", "labels", "scores", "masks", "detection_maps")
    (eager,) = explained.request.subject.user_model([image(1, GIVEN)[0]])
    assert 0 < given.masks.mean() < 1
    torch.testing.assert_close(given.masks, eager["masks"].detach(), rtol=0, atol=1e-4)
    reference = Detected.of(explained.request, explained.found, image(1, GIVEN))
    for place, found in enumerate(given.detection_maps):
        np.testing.assert_allclose(found.numpy(), reference.map_of(place), atol=1e-4)


@pytest.mark.parametrize(
    ("reading", "told"),
    [
        (lambda output, image: (output[0],), r"returns \(1, 8, 504\) torch.float32, expected"),
        (
            lambda output, image: (torch.rand(2, 4), torch.zeros(3, dtype=int), torch.rand(2)),
            r"returns \(2, 4\) torch.float32, \(3\) torch.int64, \(2\) torch.float32, expected",
        ),
        (
            lambda output, image: (torch.rand(2, 4), torch.zeros(2), torch.rand(2)),
            "of whole numbers",
        ),
        (lambda output, image: (*(torch.rand(2, 4),) * 3, 1), "int, expected a tuple"),
        (lambda output, image: 1 / 0, "the reading of detections fails: ZeroDivisionError"),
    ],
)
def test_a_reading_must_give_detections(reading: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        explain(candidates(), image(0), detections=reading)


def test_the_detector_is_left_as_it_is() -> None:
    model = faster_rcnn()
    before = copy.deepcopy(model.state_dict())
    (found,) = model([image(3, GIVEN)[0]])
    explain(model, image(0, GIVEN))
    (again,) = model([image(3, GIVEN)[0]])
    assert torch.equal(found["scores"], again["scores"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in model.parameters())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": "finercam"}, "finercam is not for detections; expected activation, gradcam"),
    ({"method": "scorecam"}, "scorecam is not for detections; expected activation, gradcam"),
    ({"target": "match"}, "gradcam of a detector explains the target logit, left, .*'match'"),
    ({"aug_smooth": True}, "know no aug_smooth"),
    (
        {"dynamic_size": True, "method": "rise", "target": "match"},
        "rise runs the detector in a loop, whose images are of one size",
    ),
    ({"class_ids": "all"}, "know no class_ids='all'"),
    ({"top": 0}, "1 or more, got 0"),
    ({"method": "eigencam", "top": 3}, "eigencam gives one map of the image: leave out top"),
    ({"detections": 3}, "expected yolo, detr, rt-detr, or a function"),
    ({"class_names": ["a", "b"]}, "2 class names were given for a detector of 4 labels"),
]


@pytest.mark.parametrize(("how", "message"), REFUSED)
def test_what_detectors_refuse(how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(ssd(), image(0, GIVEN), **how)


def test_one_image_alone() -> None:
    with pytest.raises(InputError, match=r"one image \(1, C, H, W\), got \(2, 3, 50, 70\)"):
        explain(ssd(), torch.zeros(2, 3, *GIVEN))
    with pytest.raises(InputError, match="explains what it finds"):
        explain(ssd(), image(0, GIVEN))(image(0, GIVEN), class_ids=torch.tensor([[1]]))


def test_of_one_size_on_request() -> None:
    explained = explain(ssd(), image(0, GIVEN), top=TOP, relu=False, dynamic_size=False)
    assert tuple(explained.card.image.space.values()) == GIVEN
    assert "height and width are fixed on request" in explained.card.notes
    check_maps(explained, 1)


def test_a_detector_that_resizes_in_its_own_way_takes_one_size() -> None:
    class Own(GeneralizedRCNNTransform):
        """Upright images lie down."""

        def resize(self, image: Tensor, target: Any = None) -> Any:
            lying = image.transpose(1, 2) if image.shape[1] > image.shape[2] else image
            return super().resize(lying, target)

    model: Any = ssd()
    model.transform.__class__ = Own
    explained = explain(model, image(0, GIVEN), top=TOP)
    assert tuple(explained.card.image.space.values()) == GIVEN
    assert "it resizes images in a way of its own" in explained.card.notes[0]
    with pytest.raises(ExportError, match="free height and width: it resizes images in a way"):
        explain(model, image(0, GIVEN), dynamic_size=True)


def test_how_an_image_is_resized_and_padded() -> None:
    assert frame_of(retinanet(), image(0, GIVEN)) == Frame(GIVEN, (64, 89), (64, 96))
    assert frame_of(ssd(), image(0, GIVEN)) == Frame(GIVEN, (64, 96), (64, 96))


def test_how_many_labels_there_are() -> None:
    assert {count_labels(make()) for make in (retinanet, fcos, ssd, faster_rcnn)} == {LABELS}
    with pytest.raises(InputError, match="does not say how many labels"):
        count_labels(nn.Linear(2, 3))
