"""The proof of a detector's file: what it finds, and each map, beside the detector run eagerly."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camcore.errors import ProofError
from camcore.export.detectors.matches import MATCHES
from camcore.export.detectors.whole import Whole
from camcore.export.explained import ExplainedDetector
from camcore.export.prove.detected import Detected, distances_to
from camcore.export.prove.prove import (
    ROUNDING_SPREAD,
    TOLERANCE,
    copied,
    results_of,
)
from camcore.export.prove.runtimes import load

# Of how many images the maps are compared where each takes many runs.
_FEW = 2

# Scores of one detection in single and in double precision are nearer than that.
_NEAR = 1e-2


def prove_detector(path: Path, explained: ExplainedDetector) -> dict[str, Any]:
    """Compare a file with the eager detector, on the example and on images made of it.

    Detections must be the same, of near-equal scores in any order, their boxes to `TOLERANCE` of
    the image's longer side; maps may differ by `TOLERANCE`, or by `ROUNDING_SPREAD` times what a
    rounding error of the image moves them.

    Returns:
        What was compared, for the card: runtime, images, detections, worst error.

    Raises:
        ProofError: the file does not hold, or the detector found nothing to prove it with.
    """
    request, found = explained.request, explained.found
    runtime, run = load(path, explained.card)
    worst, detections, image_maps = 0.0, 0, []
    images = list(_images(request.inputs[0], explained.card.image.is_any_size))
    if request.subject.target.name in MATCHES:
        images = images[:_FEW]
    doubled = Whole(copied(request.subject).double().user_model, request.detections)
    for image in images:
        given = results_of(runtime, run, [image], None)
        eager = Detected.of(request, found, image)
        allowed = allowed_errors(doubled, image, eager.found)
        places = same_detections(given, eager.found, allowed, runtime)
        others = zip(
            explained.card.outputs[3:-1], given[3:-1], eager.found[3:], allowed[3:], strict=True
        )
        for name, own, expected, bound in others:
            right = expected.detach()[places]
            off = float((own - right).abs().max()) if len(own) else 0.0
            if off > bound:
                raise ProofError(
                    f"{runtime} gives {name} that are off by {off:.1e}, allowed is {bound:.1e}"
                )
        maps, shared = given[-1], explained.card.shares_map
        count = min(len(given[0]), request.top)
        shape = (1, 1) if shared else (count,)
        if tuple(maps.shape) != (*shape, *image.shape[2:]):
            raise ProofError(
                f"{runtime} gives maps of shape {tuple(maps.shape)} for {len(given[0])} detections"
            )
        if shared:
            worst = max(worst, error_of(maps[0, 0], eager, None, runtime) or 0.0)
            detections += len(places)
            image_maps += list(maps[0])
            continue
        for own_map, place in zip(maps, places[:count], strict=True):
            error = error_of(own_map, eager, place, runtime)
            if error is not None:
                worst = max(worst, error)
                detections += 1
        # Of one detection it may be empty, whatever the image.
        image_maps += [maps.amax(0)] if count else []
    if not detections:
        raise ProofError(
            "the detector finds nothing in the example, nor in images made of it, so no map could "
            "be proven: explain it with an image in which it finds something, and is not as good "
            "as certain"
        )
    alike = [each for each in image_maps if each.shape == image_maps[0].shape]
    if len(alike) > 1 and not any(
        bool((each - alike[0]).abs().max() > TOLERANCE) for each in alike[1:]
    ):
        raise ProofError(
            f"the maps of {found.place} are the same for every image: nothing is explained"
        )
    return {
        "runtime": runtime,
        "images": len(images),
        "detections": detections,
        "worst_relative_error": float(f"{worst:.2e}"),
    }


def _images(example: Tensor, any_size: bool) -> Iterator[Tensor]:
    """The example, mirrored, darker with noise, and smooth noise alone; of other sizes, too, where
    any is taken: one of them upright, or lying.
    """
    generator = torch.Generator().manual_seed(20180)
    noise = torch.rand(example.shape, generator=generator).to(example)
    coarse = torch.rand(1, example.shape[1], 9, 9, generator=generator).to(example)
    yield example
    if any_size:
        height, width = example.shape[2:]
        for size in ((width + 5, height + 12), (height + 32, width + 2)):
            yield nn.functional.interpolate(example, size, mode="bilinear")
    yield example.flip(-1)
    yield 0.7 * example.flip(-2) + 0.1 * noise
    smooth = nn.functional.interpolate(coarse, tuple(example.shape[2:]), mode="bicubic")
    yield smooth.clamp(0, 1)


@torch.no_grad()
def allowed_errors(doubled: nn.Module, image: Tensor, found: Sequence[Tensor]) -> list[float]:
    """How far each of the outputs may be off: the tolerance, or more where single precision has
    eager PyTorch itself be off from double precision. Boxes and keypoints are in pixels, labels
    are not compared.

    Args:
        doubled: `Whole` of the detector in double precision.
        found: boxes, labels, scores and whatever else the detector finds as it is.
    """
    exact = doubled(image.double())
    found = [each.detach() for each in found]
    boxes, labels, scores = found[:3]
    sizes = [float(max(image.shape[2:])), 1.0, 1.0]
    sizes += [max(1.0, float(each.abs().max())) if each.numel() else 1.0 for each in found[3:]]
    off = [TOLERANCE * size for size in sizes]
    for row, (box, label, score) in enumerate(zip(*exact[:3], strict=True)):
        near = (labels == label) & ((scores - score).abs() < _NEAR)
        if not bool(near.any()):
            continue
        distances = distances_to(boxes, box, near)
        place = int(distances.argmin())
        if float(distances[place]) < 1:
            for number, (own, right) in enumerate(zip(found, exact, strict=True)):
                moved = float((own[place] - right[row]).abs().max())
                off[number] = max(off[number], ROUNDING_SPREAD * moved)
    return off


def same_detections(
    found: Sequence[Tensor], expected: Sequence[Tensor], allowed: Sequence[float], runtime: str
) -> list[int]:
    """For each detection of the file, its place among the eager ones; `allowed` is that of
    `allowed_errors`.

    Raises:
        ProofError: one of them is not there, or there are more or fewer.
    """
    of_boxes, _, of_scores = allowed[:3]
    boxes, labels, scores = (each.cpu().double() for each in found[:3])
    their_boxes, their_labels, their_scores = (
        each.detach().cpu().double() for each in expected[:3]
    )
    if len(boxes) != len(their_boxes):
        raise ProofError(f"{runtime} finds {len(boxes)} objects, eager PyTorch {len(their_boxes)}")
    left = torch.ones(len(boxes), dtype=torch.bool)
    places = []
    for box, label, score in zip(boxes, labels, scores, strict=True):
        same = left & (their_labels == label) & ((their_scores - score).abs() <= of_scores)
        off = distances_to(their_boxes, box, same)
        place = int(off.argmin())
        if not off[place] <= of_boxes:
            raise ProofError(
                f"{runtime} finds label {int(label)}, score {float(score):.4f}, at {box.tolist()}, "
                "which eager PyTorch does not"
            )
        left[place] = False
        places.append(place)
    order = their_scores[places]
    if bool((order[1:] > order[:-1] + of_scores).any()):
        raise ProofError(f"{runtime} gives detections in another order than eager PyTorch")
    return places


def error_of(given: Tensor, eager: Detected, place: int | None, runtime: str) -> float | None:
    """How far a detection's map is off, if rounding explains it where that is above the tolerance.

    It may be as far off as the eager one moves with the image, changed by a rounding error. A
    `place` None stands for the map of the whole image. None where eager PyTorch does not tell what
    the detection stems from.
    """
    expected = eager.map_of(place) if place is not None else eager.map_of_image()
    if expected is None:
        return None
    error = float(np.abs(given.cpu().double().numpy() - expected).max())
    if error <= TOLERANCE:
        return error
    moved_maps = eager.moved_maps(place) if place is not None else eager.moved_maps_of_image()
    moves = (float(np.abs(each - expected).max()) for each in moved_maps)
    moved = max(moves, default=0.0)
    if error <= ROUNDING_SPREAD * moved:
        return error
    which = "saliency_map" if place is None else f"detection_maps of detection {place}"
    raise ProofError(
        f"{which} from {runtime}: off by {error:.1e} at "
        f"{eager.about.place!r}; a rounding error of the image moves that map by {moved:.1e}; "
        f"allowed is {TOLERANCE:.0e}"
    )
