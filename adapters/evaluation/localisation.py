"""Localisation: whether a class's map finds the objects of that class.

An *object* here is a class that is in an image, with all its boxes there: it has one map.

MaxBoxAcc and MaxBoxAccV2 part the map at many thresholds and compare the boxes of what is above
with those that people have drawn, so no threshold has to be chosen for a method.

Source: Choe et al. 2020, https://arxiv.org/abs/2001.07437; they part grey levels, 1000 fractions of
the maximum, and take the region of the largest contour for the largest. Zhang et al. 2016,
https://arxiv.org/abs/1608.00507, for the pointing game.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camcore.adapters.images import Placement
from camcore.metrics import box_iou

# Fractions of a map's maximum.
THRESHOLDS = tuple(k / 100 for k in range(100))
# From which overlap on a box is right: the first paper's, and those that V2 takes the mean over.
GOOD_IOU = 0.5
V2_IOUS = (0.3, 0.5, 0.7)
TOLERANCE = 15.0  # pixels of the image, in the pointing game


def found_in_map(
    saliency_map: NDArray[Any], placement: Placement, boxes: NDArray[np.float64]
) -> dict[str, Any]:
    """How near a map (H, W) comes to the boxes (n, 4) of an object, in the pixels of its image.

    `off` is how many pixels its highest point lies outside of the nearest box, 0 in one, None of a
    map without a highest point. `largest` is for each threshold the overlap, IoU, of the largest
    region's box with the box that it overlaps best; `any` the best of all regions' boxes.

    >>> saliency_map = np.zeros((4, 4), np.float32)
    >>> saliency_map[1, 2] = 1
    >>> seen = Placement(0, 0, 4, 4, height=4, width=4)
    >>> found_in_map(saliency_map, seen, np.array([[0.0, 1, 1, 2]]))["off"]
    1.5
    """
    largest, best = _overlaps(saliency_map, placement, boxes)
    return {
        "off": _off(saliency_map, placement, boxes),
        "largest": np.round(largest, 6).tolist(),
        "any": np.round(best, 6).tolist(),
    }


def _off(
    saliency_map: NDArray[Any], placement: Placement, boxes: NDArray[np.float64]
) -> float | None:
    peak = placement.peak_to_original(saliency_map)
    if peak is None:
        return None
    outside = np.maximum(np.maximum(boxes[:, :2] - peak, peak - boxes[:, 2:]), 0)
    return round(float(np.hypot(*outside.T).min()), 3)


def _overlaps(
    saliency_map: NDArray[Any], placement: Placement, boxes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The IoU of the largest region's box, and the best one, at each threshold, (T,)."""
    largest, best = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    highest = saliency_map.max()
    if not highest > 0:
        return largest, best
    corners, places = [], []
    left, top, part = 0, 0, saliency_map
    for threshold in THRESHOLDS:
        mask = (part > threshold * highest).view(np.uint8)
        # What is above a higher threshold lies in the part that is above a lower one.
        x, y, width, height = cv2.boundingRect(mask)
        left, top = left + x, top + y
        part = part[y : y + height, x : x + width]
        mask = mask[y : y + height, x : x + width]
        # As camcore.threshold_masks and component_boxes find them, seventy times as fast.
        _, regions, found, _ = cv2.connectedComponentsWithStats(
            mask, connectivity=8, ltype=cv2.CV_32S
        )
        left_top, sizes = found[1:, :2] + [left, top], found[1:, 2:4]
        corners.append(np.concatenate([left_top, left_top + sizes], axis=1))
        places.append(_first_largest(regions, found[1:, cv2.CC_STAT_AREA]))
    counts = [len(each) for each in corners]
    starts = np.cumsum([0, *counts[:-1]])
    size = (saliency_map.shape[0], saliency_map.shape[1])
    placed = placement.boxes_to_original(np.concatenate(corners), size)
    overlaps = np.max(box_iou(placed[:, None], boxes[None]), axis=1)
    # No threshold is without a region: the highest pixel is above all of them.
    return overlaps[starts + np.array(places)], np.maximum.reduceat(overlaps, starts)


def _first_largest(regions: NDArray[np.int32], areas: NDArray[np.int32]) -> int:
    """The place of the largest area; of equal ones, of that whose first pixel comes first."""
    equal = np.flatnonzero(areas == areas.max())
    if len(equal) == 1:
        return int(equal[0])
    flat = regions.ravel()
    return int(flat[np.isin(flat, equal + 1).argmax()]) - 1


@dataclass
class Localisation:
    """What was found of objects, added image by image; figures of all of them.

    `hits` counts of how many objects of each class the map points at one, without the tolerance and
    with it; `largest` and `best`, (3, T), of how many the box was right, by IoU and threshold.
    """

    objects: dict[int, int] = field(default_factory=dict)
    hits: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    largest: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(V2_IOUS), len(THRESHOLDS)), np.int64)
    )
    best: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(V2_IOUS), len(THRESHOLDS)), np.int64)
    )

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add the objects of an image, as `predict_batch` gives it."""
        good = np.array(V2_IOUS)[:, None]
        for found in entry["objects"]:
            label = found["class"]
            off = np.inf if found["off"] is None else found["off"]
            self.objects[label] = self.objects.get(label, 0) + 1
            hits = np.array([off == 0, off <= TOLERANCE], np.int64)
            self.hits[label] = self.hits.get(label, np.zeros(2, np.int64)) + hits
            self.largest += np.asarray(found["largest"]) >= good
            self.best += np.asarray(found["any"]) >= good

    def figures(self) -> dict[str, Any]:
        """All figures and curves, as JSON takes them; None where there were no objects.

        The pointing game is a mean over classes, as its authors have it. `threshold` is where
        MaxBoxAcc is reached.
        """
        count = sum(self.objects.values())
        if count == 0:
            names = ("pointing_game", "pointing_game_tolerant", "max_box_acc", "max_box_acc_v2")
            return {"objects": 0, **dict.fromkeys((*names, "threshold", "curves"))}
        shares = np.mean([self.hits[label] / self.objects[label] for label in self.objects], axis=0)
        curve = self.largest[V2_IOUS.index(GOOD_IOU)] / count
        v2_curves = self.best / count
        return {
            "objects": count,
            "pointing_game": float(shares[0]),
            "pointing_game_tolerant": float(shares[1]),
            "max_box_acc": float(curve.max()),
            "threshold": THRESHOLDS[int(curve.argmax())],
            "max_box_acc_v2": float(v2_curves.max(axis=1).mean()),
            "curves": {
                "thresholds": list(THRESHOLDS),
                "box_acc": curve.tolist(),
                "box_acc_v2": {
                    str(iou): each.tolist() for iou, each in zip(V2_IOUS, v2_curves, strict=True)
                },
            },
        }
