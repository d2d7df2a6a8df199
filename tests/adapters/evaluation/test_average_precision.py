"""Against a mean over precisions in plain Python, and the library's own summary."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camcore.adapters.evaluation.annotations import AnnotatedImage, Annotations
from camcore.adapters.evaluation.average_precision import Counted, average_precision

NAMES = ("cat", "dog", "cow")


def image(name: str, boxes: list[list[float]], labels: list[int], crowd: list[int]) -> Any:
    ignored = np.isin(np.arange(len(boxes)), crowd)
    return AnnotatedImage(
        name, Path(name), np.array(boxes, float).reshape(-1, 4), np.array(labels, int), ignored
    )


def predicted(name: str, *found: tuple[int, list[list[float]], list[float]]) -> dict[str, Any]:
    return {
        "image": name,
        "predictions": [
            {"class": label, "boxes": boxes, "scores": scores} for label, boxes, scores in found
        ],
    }


def counted(entries: list[dict[str, Any]]) -> Counted:
    found = Counted()
    for entry in entries:
        found.add(entry)
    return found


def test_by_hand() -> None:
    """One box right of two cats, one wrong before it; a dog found to IoU 0.8; no cow anywhere."""
    truth = [
        image("a", [[0, 0, 10, 10], [0, 0, 10, 10]], [0, 1], []),
        image("b", [[20, 20, 30, 40]], [0], []),
        image("not evaluated", [[0, 0, 5, 5]], [2], []),
    ]
    entries = [
        predicted("a", (0, [[50, 50, 60, 60]], [0.9]), (1, [[0, 0, 10, 8]], [0.4])),
        predicted("b", (0, [[20, 20, 30, 40]], [0.8])),
    ]
    found = average_precision(Annotations(truth, NAMES), counted(entries), lambda: entries)
    # Half of the recall has the precision 1/2: 51 of 101 points.
    assert found["classes"]["cat"] == pytest.approx(0.5 * 51 / 101)
    assert found["classes"]["dog"] == pytest.approx(0.7)  # at 0.5, 0.55, ... 0.8
    assert found["classes"]["cow"] is None
    assert found["mAP"] == pytest.approx((0.5 * 51 / 101 + 0.7) / 2)
    assert found["mAP50"] == pytest.approx((0.5 * 51 / 101 + 1) / 2)
    assert found["mAP_large"] is None
    assert found["recall_100"] == pytest.approx((0.5 + 0.7) / 2)


def random_set(seed: int) -> tuple[list[Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> list[list[float]]:
        corner, side = rng.integers(0, 60, (count, 2)), rng.integers(4, 120, (count, 2))
        return np.concatenate([corner, corner + side], 1).astype(float).tolist()

    truth, entries = [], []
    for number in range(12):
        count = int(rng.integers(0, 5))
        real = boxes(count)
        labels = rng.integers(0, 3, count).tolist()
        truth.append(image(str(number), real, labels, [0] if number % 4 == 0 else []))
        found = []
        for label in range(3):
            near = [
                (np.array(box) + rng.integers(-3, 4, 4)).tolist()
                for box, own in zip(real, labels, strict=True)
                if own == label
            ]
            guesses = near + boxes(2)
            found.append((label, guesses, rng.random(len(guesses)).round(2).tolist()))
        entries.append(predicted(str(number), *found))
    return truth, entries


@pytest.mark.parametrize("seed", range(3))
def test_classes_at_a_time_are_as_all_at_once(seed: int) -> None:
    """And as the library sums them up, crowds and sizes among them."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth, entries = random_set(seed)
    annotations = Annotations(truth, NAMES)
    given = (annotations, counted(entries), lambda: entries)
    one = average_precision(*given)
    assert average_precision(*given, most_at_once=1) == one
    dataset = {
        "images": [{"id": number} for number in range(1, 13)],
        "annotations": [],
        "categories": [{"id": label, "name": name} for label, name in enumerate(NAMES)],
    }
    for number, each in enumerate(truth, start=1):
        for (x1, y1, x2, y2), label, crowd in zip(
            each.boxes, each.labels, each.ignored, strict=True
        ):
            dataset["annotations"].append(
                {
                    "id": len(dataset["annotations"]) + 1,
                    "image_id": number,
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                }
            )
    results = [
        [number, x1, y1, x2 - x1, y2 - y1, score, each["class"]]
        for number, entry in enumerate(entries, start=1)
        for each in entry["predictions"]
        for (x1, y1, x2, y2), score in zip(each["boxes"], each["scores"], strict=True)
    ]
    coco = COCO(dataset)
    peer = COCOeval_faster(coco, coco.loadRes(np.array(results)), iouType="bbox")
    peer.evaluate()
    peer.accumulate()
    peer.summarize()
    names = ["mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large"]
    ours = [-1 if one[name] is None else one[name] for name in names]
    np.testing.assert_allclose(ours, peer.stats[:6], atol=1e-12)
    assert one["recall_100"] == pytest.approx(peer.stats[8])
    assert 0 < one["mAP"] < 1
