"""How well detections are met by those of another run."""

import torch
from torch import Tensor

from camcore.export.detectors.matches import first_detections, match
from camcore.export.prove.reruns import matched

BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 30], [50, 0, 60, 10]])
LABELS = torch.tensor([1, 2, 3])
SCORES = torch.tensor([0.9, 0.8, 0.7])


def met(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Tensor:
    """By the graph's function, which the eager one agrees with."""
    again = [torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels), torch.tensor(scores)]
    found = match(BOXES, LABELS, again)
    torch.testing.assert_close(found, matched((BOXES, LABELS, SCORES), again))
    return found


def test_a_detection_is_worth_its_overlap_and_its_score() -> None:
    given = met([[0, 0, 10, 8], [20, 20, 40, 30]], [1, 2], [0.5, 0.25])
    torch.testing.assert_close(given, torch.tensor([1.3, 1.25, 0.0]))


def test_another_label_or_half_an_overlap_is_another_object() -> None:
    given = met([[0, 0, 10, 10], [20, 20, 40, 25], [50, 0, 60, 10]], [2, 2, 1], [0.9, 0.8, 0.7])
    torch.testing.assert_close(given, torch.zeros(3))


def test_the_box_that_overlaps_most_counts_and_not_the_surest() -> None:
    given = met([[0, 0, 10, 6], [0, 0, 10, 9]], [1, 1], [0.99, 0.1])
    torch.testing.assert_close(given, torch.tensor([1.0, 0.0, 0.0]))


def test_pytorch_grad_cam_leaves_nothing_where_another_label_overlaps_more() -> None:
    """What is there all the same: here it counts."""
    given = met([[0, 0, 10, 10], [0, 0, 10, 9]], [2, 1], [0.9, 0.8])
    torch.testing.assert_close(given, torch.tensor([1.7, 0.0, 0.0]))


def test_nothing_found() -> None:
    torch.testing.assert_close(met([], [], []), torch.zeros(3))


def test_the_first_detections_are_padded_with_what_fits_nothing() -> None:
    boxes, labels = first_detections((BOXES, LABELS, SCORES), 5)
    assert labels.tolist() == [1, 2, 3, -2, -2]
    again = (torch.cat([BOXES, torch.zeros(1, 4)]), torch.tensor([1, 2, 3, -2]), torch.ones(4))
    torch.testing.assert_close(match(boxes, labels, again), torch.tensor([2.0, 2, 2, 0, 0]))
    boxes, labels = first_detections((BOXES, LABELS, SCORES), 2)
    assert labels.tolist() == [1, 2]
    assert torch.equal(boxes, BOXES[:2])
