"""Readings of candidates, by hand and beside torchvision."""

from functools import partial

import pytest
import torch
from torchvision.ops import batched_nms

from camcore.errors import InputError, UnknownNameError
from camcore.export.detectors.readings import READINGS, detr, get_reading, rt_detr, yolo

IMAGE = torch.zeros(1, 3, 100, 200)


def test_yolo_by_hand() -> None:
    """Two overlapping of one label, one of another, and one that is too unlikely."""
    places = torch.tensor([[10.0, 10, 8, 6], [11, 10, 8, 6], [11, 10, 8, 6], [50, 50, 4, 4]])
    scores = torch.tensor([[0.5, 0.1], [0.9, 0.2], [0.1, 0.8], [0.2, 0.1]])
    output = torch.cat([places, scores], 1).t()[None]
    boxes, labels, found = yolo((output, "more"), IMAGE)
    assert labels.tolist() == [0, 1]
    torch.testing.assert_close(found, torch.tensor([0.9, 0.8]))
    assert boxes.tolist() == [[7, 7, 15, 13]] * 2
    assert len(yolo(output, IMAGE, score=0.01)[0]) == 3
    assert len(yolo(output, IMAGE, iou=0.9)[0]) == 3
    assert len(yolo(output, IMAGE, most=1)[0]) == 1


def test_yolo_beside_plain_suppression() -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.rand(1, 7, 300, generator=generator)
    output[:, :4] *= torch.tensor([180.0, 90, 30, 30])[:, None]
    boxes, labels, scores = yolo(output, IMAGE, score=0.6, iou=0.3)
    best, kinds = output[0, 4:].max(0)
    x, y, w, h = output[0, :4]
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    likely = best > 0.6
    kept = batched_nms(corners[likely], best[likely], kinds[likely], 0.3)
    torch.testing.assert_close(scores, best[likely][kept])
    torch.testing.assert_close(boxes, corners[likely][kept])
    assert labels.tolist() == kinds[likely][kept].tolist()
    assert 3 < len(kept) < int(likely.sum())


def test_queries_by_hand() -> None:
    logits = torch.tensor([[[1.0, 3, 0], [9, 0, 0], [0, 0, 9]]])
    places = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.1, 0.2], [0, 0, 1, 1]]])
    output = {"logits": logits, "pred_boxes": places}
    boxes, labels, scores = detr(output, IMAGE)
    assert labels.tolist() == [0, 1]  # the third is no object
    torch.testing.assert_close(scores, logits[0, [1, 0]].softmax(-1).amax(-1))
    torch.testing.assert_close(boxes[1], torch.tensor([80.0, 30, 120, 70]))
    _, labels, scores = rt_detr(output, IMAGE)
    assert set(labels.tolist()) == {0, 1, 2}
    torch.testing.assert_close(scores, logits[0].sigmoid().amax(-1).sort(descending=True)[0])


def test_a_reading_by_its_name() -> None:
    assert get_reading("yolo") is yolo
    assert get_reading(None) is None
    own = partial(detr, score=0.1)
    assert get_reading(own) is own
    assert {*READINGS} == {"yolo", "detr", "rt-detr"}
    with pytest.raises(UnknownNameError, match="yolo"):
        get_reading("yolov8")
    with pytest.raises(InputError, match="expected yolo, detr, rt-detr, or a function"):
        get_reading(3)  # type: ignore[arg-type]
