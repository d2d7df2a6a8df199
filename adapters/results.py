"""Results: what a file or a model gave for one image, as plain values and as pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.images import Placement
from camcore.adapters.runner import Explanation, class_probabilities, class_scores
from camcore.boxes import renormalize_in_boxes
from camcore.card import Card
from camcore.scaling import normalize

if TYPE_CHECKING:
    from camcore.adapters.running.clip_placement import ClipPlacement
    from camcore.adapters.running.volumes import VolumePlacement

_CLASSES_OF_A_CONCEPT = 3  # those to whose scores it adds most


def image_record(
    path: str | Path,
    explanation: Explanation[Any],
    placement: "Placement | VolumePlacement | ClipPlacement",
    card: Card,
    listed: int,
) -> dict[str, Any]:
    """What one image or volume gave, as JSON takes it, with so many of its best classes."""
    if card.is_detector and isinstance(placement, Placement):
        return _detections_record(path, explanation, placement, card)
    scores = class_scores(card, explanation)
    probabilities = None if scores is None else class_probabilities(card, scores)

    def named(index: int) -> dict[str, Any]:
        names = card.class_names
        return {
            "class": index,
            "name": names[index] if names else str(index),
            "score": None if scores is None else float(scores[0, index]),
            "probability": None if probabilities is None else float(probabilities[0, index]),
        }

    best: Iterable[Any] = ()
    if scores is not None:
        best = np.argsort(-scores[0], kind="stable")[:listed]
    explained = []
    boxes = _boxes(explanation, placement) if isinstance(placement, Placement) else None
    for k, (index, saliency_map) in enumerate(
        zip(explanation.classes[0], explanation.saliency_map[0], strict=True)
    ):
        peak = _peak(saliency_map, placement)
        found = {} if boxes is None else {"boxes": boxes[k]}
        explained.append({**named(int(index)), "peak": peak, "map": None, **found})
    record = {
        "image": str(path),
        "predictions": [named(int(index)) for index in best],
        "explained": explained,
        "overlay": None,
    }
    return record | _concepts(explanation, placement, card)


def failed_record(path: str | Path, reason: str) -> dict[str, Any]:
    """The record of an image of which nothing came, and why."""
    return {
        "image": str(path),
        "error": reason,
        "predictions": [],
        "explained": [],
        "overlay": None,
    }


def _detections_record(
    path: str | Path, explanation: Explanation[Any], placement: Placement, card: Card
) -> dict[str, Any]:
    """What a detector found in one image, each with the peak of its map and its box."""
    maps = maps_of(explanation)
    boxes = placement.boxes_to_original(explanation.boxes, maps.shape[1:])
    names = card.class_names
    explained = []
    for raw, box, label, score in zip(
        maps, boxes, explanation["labels"], explanation.scores, strict=True
    ):
        index, place = int(label), [round(float(edge), 1) for edge in box]
        entry = {
            "class": index,
            "name": names[index] if names else str(index),
            "score": float(score),
            "probability": None,
            "peak": _peak(raw, placement),
            "map": None,
            "boxes": [{"box": place, "score": float(score)}],
        }
        explained.append(entry)
    return {"image": str(path), "predictions": [], "explained": explained, "overlay": None}


def maps_of(explanation: Explanation[Any]) -> Any:
    """The maps (K, H, W) of the first image's classes, or of the detections in it; those of a
    detector that explains the image as a whole have one in common.
    """
    if "detection_maps" in explanation:
        return explanation["detection_maps"]
    maps = explanation.saliency_map[0]
    if "classes" not in explanation:
        maps = np.broadcast_to(maps, (len(explanation.boxes), *maps.shape[1:]))
    return maps


def concept_maps_of(explanation: Explanation[Any]) -> Any:
    """The maps (K, H, W) of the concepts of the first image, which may be none."""
    return explanation["concept_maps"][0] if "concept_maps" in explanation else ()


def _concepts(
    explanation: Explanation[Any],
    placement: "Placement | VolumePlacement | ClipPlacement",
    card: Card,
) -> dict[str, list[dict[str, Any]]]:
    """The concepts of the first image, each with the classes to whose scores it adds most; nothing
    of a file that looks for none.
    """
    entries: list[dict[str, Any]] = [
        {"concept": number, "peak": _peak(each, placement), "map": None, "adds": []}
        for number, each in enumerate(concept_maps_of(explanation))
    ]
    if "concept_scores" in explanation:
        for entry, added in zip(entries, explanation["concept_scores"][0], strict=True):
            entry["adds"] = [
                {
                    "class": int(index),
                    "name": card.class_names[index] if card.class_names else str(index),
                    "score": float(added[index]),
                }
                for index in np.argsort(-added, kind="stable")[:_CLASSES_OF_A_CONCEPT]
            ]
    return {"concepts": entries} if entries else {}


def _peak(
    saliency_map: Any, placement: "Placement | VolumePlacement | ClipPlacement"
) -> dict[str, float] | None:
    """Where a map is highest, in the image's pixels, or which voxel of a volume that is; None where
    it has no highest point.
    """
    peak = placement.peak_to_original(saliency_map)
    if peak is None:
        return None
    axes: Sequence[str] = "xy" if len(peak) == 2 else "ijk"
    if len(peak) == 3 and hasattr(placement, "frame"):
        axes = ("frame", "x", "y")
    return {axis: round(float(place), 1) for axis, place in zip(axes, peak, strict=True)}


def _boxes(explanation: Explanation[Any], placement: Placement) -> list[Any] | None:
    """The boxes of the first image's classes in its own pixels, None of a file that finds none."""
    if "boxes" not in explanation or "box_scores" not in explanation:
        return None
    size = explanation.saliency_map.shape[2:]
    placed = placement.boxes_to_original(explanation.boxes[0], size)
    return [
        [
            {"box": [round(edge, 1) for edge in box], "score": score}
            for box, score in zip(each.tolist(), scores.tolist(), strict=True)
            # Neither padding, nor what lies beyond the image, where the graph saw a black margin.
            if box[2] > box[0] and box[3] > box[1]
        ]
        for each, scores in zip(placed, explanation.box_scores[0], strict=True)
    ]


def caption_text(entry: Mapping[str, Any]) -> str:
    """A class of a record with what it scores, as `boxer 93.1% (12.34)`."""
    probability, score = entry["probability"], entry["score"]
    if probability is None:
        return str(entry["name"]) if score is None else f"{entry['name']} {score:.2f}"
    return f"{entry['name']} {probability:.1%} ({score:.2f})"


def concept_text(entry: Mapping[str, Any]) -> str:
    """A concept of a record with the class that it speaks for most, as `concept 0: boxer +2.31`."""
    told = f"concept {entry['concept']}"
    if not entry["adds"]:
        return told
    first = entry["adds"][0]
    return f"{told}: {first['name']} {first['score']:+.2f}"


def for_show(raw: Any, card: Card) -> Any:
    """A map (*S) in [0, 1], also of a file that gives maps as they are."""
    return raw if card.options.get("normalize", True) else normalize(raw, spatial_ndim=raw.ndim)


def picture(
    image: NDArray[np.uint8],
    explanation: Explanation[Any],
    placement: Placement,
    card: Card,
    explained: Sequence[Mapping[str, Any]],
    concepts: Sequence[Mapping[str, Any]] = (),
    *,
    colormap: str = "jet",
    opacity: float = 0.5,
    in_boxes: bool = False,
) -> NDArray[np.uint8]:
    """The overlays of the first explained classes of a record, and of its first concepts, side by
    side, with captions.

    Those of a detector that explains the image as a whole are one overlay with all boxes; so are
    they `in_boxes`, where each map is stretched in the box of its detection, and 0 outside.
    """
    from camcore.adapters import overlay  # here, for OpenCV is slow to import

    if explained and (in_boxes or card.shares_map):
        placed = [
            placement.map_to_original(for_show(raw, card))
            for raw, _ in zip(maps_of(explanation), explained, strict=False)
        ]
        boxes = np.array([entry["boxes"][0]["box"] for entry in explained])
        shown = _in_boxes(np.stack(placed), boxes) if in_boxes else placed[0]
        panel = overlay.heatmap(image, shown, colormap=colormap, opacity=opacity, boxes=boxes)
        return overlay.caption(panel, ", ".join(map(caption_text, explained)))
    panels = []
    classes = [(each, caption_text(each)) for each in explained]
    named = [*classes, *((each, concept_text(each)) for each in concepts)]
    maps = [*maps_of(explanation)[: len(explained)], *concept_maps_of(explanation)]
    for raw, (entry, text) in zip(maps, named, strict=False):
        saliency_map = placement.map_to_original(for_show(raw, card))
        boxes = np.array([box["box"] for box in entry.get("boxes", ())])
        panel = overlay.heatmap(
            image, saliency_map, colormap=colormap, opacity=opacity, boxes=boxes
        )
        panels.append(overlay.caption(panel, text))
    if not panels:  # a detector found nothing
        panels.append(overlay.caption(image, "nothing found"))
    return overlay.side_by_side(panels)


def _in_boxes(maps: NDArray[Any], boxes: NDArray[Any]) -> NDArray[Any]:
    """Maps (N, H, W), each stretched in its box (N, 4), as one (H, W); NaN where no map is."""
    edges = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
    seen = np.isfinite(maps)
    stretched = renormalize_in_boxes(np.where(seen, maps, 0), edges[:, None].astype(np.int64))
    return np.where(seen.any(axis=0), stretched.max(axis=0), np.nan)
