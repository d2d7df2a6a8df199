"""The demo's pictures: what is shown to the file, and what the file made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camcore.adapters import overlay
from camcore.adapters.demo.scenes import MOST_OBJECTS, Scene, make_scene
from camcore.adapters.files import writing
from camcore.adapters.images import prepare
from camcore.adapters.runner import ClassIds, Runner

SHOWN_SIDE = 240  # of a scene, and of a cell of the overview
LARGE_OBJECT = 50  # pixels in a scene of that size
# Dark where the map is low, so that it works like a spotlight and the picture stays recognisable.
COLORMAP = "inferno"
OPACITY = 0.55

FONT_SIZE = 17


@dataclass(frozen=True)
class Finding:
    """What a file says of one class of a picture, or of one detection: its score, and a map of the
    picture's size.

    `peak` is where the map is highest, x and y in the picture's pixels; `box` is a detection's, x1,
    y1, x2, y2.
    """

    name: str
    score: float
    saliency_map: NDArray[np.float32]
    peak: tuple[int, int]
    box: NDArray[np.float64] | None = None


def find(runner: Runner, image: NDArray[np.uint8], class_ids: ClassIds = None) -> list[Finding]:
    """The file's findings for the classes, by default the best one, of a picture (H, W, 3)."""
    array, placement = prepare(image, runner.card.image)
    explanation = runner(array, class_ids)
    findings = []
    for index, saliency_map in zip(
        explanation.classes[0], explanation.saliency_map[0], strict=True
    ):
        placed = placement.map_to_original(saliency_map)
        name = (runner.card.class_names or ())[index]
        score = float(explanation.scores[0, index])
        findings.append(Finding(name, score, placed, _highest(placed)))
    return findings


def find_objects(runner: Runner, image: NDArray[np.uint8]) -> list[Finding]:
    """What a detector's file finds in a picture (H, W, 3), each with its own map."""
    array, placement = prepare(image, runner.card.image)
    found = runner(array)
    maps = found["detection_maps"]
    boxes = placement.boxes_to_original(found.boxes, maps.shape[1:])
    findings = []
    for label, score, raw, box in zip(
        found["labels"], found.scores, maps, boxes[: len(maps)], strict=False
    ):
        placed = placement.map_to_original(raw)
        name = (runner.card.class_names or ())[label]
        findings.append(Finding(name, float(score), placed, _highest(placed), box))
    return findings


def _highest(placed: NDArray[np.float32]) -> tuple[int, int]:
    y, x = divmod(int(np.nanargmax(placed)), placed.shape[1])
    return x, y


def scene_with_large_objects(
    seed: int,
    photograph: NDArray[np.uint8] | None = None,
    labels: Sequence[int] | None = None,
) -> Scene:
    """The seed's first scene with three objects that are large enough to look at."""
    attempt = 0
    while True:
        rng = np.random.default_rng([seed, attempt])
        scene = make_scene(rng, size=(SHOWN_SIDE, SHOWN_SIDE), labels=labels, photograph=photograph)
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        if len(scene.labels) == MOST_OBJECTS and sides.max(axis=1).min() >= LARGE_OBJECT:
            return scene
        attempt += 1


def strip(
    image: NDArray[np.uint8], title: str, findings: Sequence[Finding], width: int | None = None
) -> NDArray[np.uint8]:
    """The picture and beside it a map for each finding, with captions; each `width` pixels wide."""
    panels = [overlay.caption(_widened(image, width), title, font_size=FONT_SIZE)]
    for finding in findings:
        boxes = None if finding.box is None else finding.box[None]
        panel = overlay.heatmap(
            image, finding.saliency_map, colormap=COLORMAP, opacity=OPACITY, boxes=boxes
        )
        score = f"{finding.score:+.1f}" if finding.box is None else f"{finding.score:.1%}"
        text = f"{finding.name}  {score}"
        panels.append(overlay.caption(_widened(panel, width), text, font_size=FONT_SIZE))
    return overlay.side_by_side(panels)


def stack(strips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Strips below each other with white between them; the narrower ones end in white."""
    width = max(strip.shape[1] for strip in strips)
    rows = []
    for strip in strips:
        row = np.full((strip.shape[0] + overlay.GAP, width, 3), 255, np.uint8)
        row[: strip.shape[0], : strip.shape[1]] = strip
        rows.append(row)
    return np.concatenate(rows)[: -overlay.GAP]


def overview(
    exhibits: Sequence[tuple[NDArray[np.uint8], str, Sequence[Finding]]],
) -> NDArray[np.uint8]:
    """Strips of one width below each other, from pictures, their titles and their findings."""
    columns = max(1 + len(findings) for _, _, findings in exhibits)
    width = columns * SHOWN_SIDE + (columns - 1) * overlay.GAP
    strips = []
    for image, title, findings in exhibits:
        own = 1 + len(findings)
        strips.append(strip(image, title, findings, (width - (own - 1) * overlay.GAP) // own))
    return stack(strips)


def write_small_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Save a picture in 256 colours of its own, at well under half the size that all take.

    Raises:
        FileError: the file cannot be written.
    """
    full = Image.fromarray(picture)
    # In two steps, because Pillow dithers only towards a palette that it is given.
    palette = full.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2)
    reduced = full.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    encoded = BytesIO()
    reduced.save(encoded, "PNG", optimize=True)
    with writing(path):
        path.write_bytes(encoded.getvalue())


def _widened(picture: NDArray[np.uint8], width: int | None) -> NDArray[np.uint8]:
    if width is None or picture.shape[1] == width:
        return picture
    height = round(picture.shape[0] * width / picture.shape[1])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
