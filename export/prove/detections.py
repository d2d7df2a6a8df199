"""The proof of a detector's file: what it finds, and each map, beside the detector run eagerly.

Nothing of the traced graphs is used. Which number of which product a detection stems from is told
by autograd: it is the one that raises its score the most.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from camcore.errors import ProofError
from camcore.export.detectors.whole import Whole, is_detector
from camcore.export.explained import ExplainedDetector
from camcore.export.prove.eager import Recorded
from camcore.export.prove.prove import (
    ROUNDING,
    ROUNDING_SPREAD,
    TOLERANCE,
    copied,
    results_of,
)
from camcore.export.prove.runtimes import load
from camcore.export.prove.watch import SoundBatchNorms
from camcore.export.request import Found, Request
from camcore.export.trace.state import kept_state
from camcore.scaling import normalize

# How often it is tried how far a rounding error of the image moves a map.
_CHANGES = 6

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
    worst, detections, first_maps = 0.0, 0, []
    images = list(_images(request.inputs[0]))
    doubled = copied(request.subject).double().user_model
    for image in images:
        given = results_of(runtime, run, [image], None)
        eager = _Eager.of(request, found, image)
        places = _same_detections(given, eager.found, _allowed(doubled, eager), runtime)
        for own, expected in zip(given[3:-1], eager.found[3:], strict=True):
            off = float((own - expected.detach()[places]).abs().max()) if len(own) else 0.0
            if off > TOLERANCE:
                raise ProofError(f"{runtime} gives masks that are off by {off:.1e}")
        maps, shared = given[-1], explained.card.shares_map
        count = min(len(given[0]), request.top)
        shape = (1, 1) if shared else (count,)
        if tuple(maps.shape) != (*shape, *image.shape[2:]):
            raise ProofError(
                f"{runtime} gives maps of shape {tuple(maps.shape)} for {len(given[0])} detections"
            )
        if shared:
            worst = max(worst, _error_of(maps[0, 0], eager, None, runtime) or 0.0)
            detections += len(places)
            first_maps += list(maps[0])
            continue
        for own_map, place in zip(maps, places[:count], strict=True):
            error = _error_of(own_map, eager, place, runtime)
            if error is not None:
                worst = max(worst, error)
                detections += 1
        first_maps += list(maps[:1])
    if not detections:
        raise ProofError(
            "the detector finds nothing in the example, nor in images made of it, so no map could "
            "be proven: explain it with an image in which it finds something, and is not as good "
            "as certain"
        )
    if len(first_maps) > 1 and not any(
        bool((each - first_maps[0]).abs().max() > TOLERANCE) for each in first_maps[1:]
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


def _images(example: Tensor) -> Iterator[Tensor]:
    """The example, mirrored, darker with noise, and smooth noise alone."""
    generator = torch.Generator().manual_seed(20180)
    noise = torch.rand(example.shape, generator=generator).to(example)
    coarse = torch.rand(1, example.shape[1], 9, 9, generator=generator).to(example)
    yield example
    yield example.flip(-1)
    yield 0.7 * example.flip(-2) + 0.1 * noise
    size = tuple(example.shape[2:])
    yield nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)


def _allowed(doubled: nn.Module, eager: "_Eager") -> tuple[float, float]:
    """How far boxes, in pixels, and scores may be off: the tolerance, or more where single
    precision has eager PyTorch itself be off from double precision.
    """
    with torch.no_grad():
        exact = Whole(doubled, eager.request.detections)(eager.image.double())[:3]
    off = [TOLERANCE * max(eager.image.shape[2:]), TOLERANCE]
    boxes, labels, scores = (each.detach() for each in eager.found[:3])
    for box, label, score in zip(*exact, strict=True):
        near = (labels == label) & ((scores - score).abs() < _NEAR)
        if bool(near.any()):
            distances = _distances(boxes, box, near)
            place = int(distances.argmin())
            if float(distances[place]) < 1:
                off[0] = max(off[0], ROUNDING_SPREAD * float(distances[place]))
                off[1] = max(off[1], ROUNDING_SPREAD * float((scores[place] - score).abs()))
    return off[0], off[1]


def _same_detections(
    found: list[Tensor], expected: list[Tensor], allowed: tuple[float, float], runtime: str
) -> list[int]:
    """For each detection of the file, its place among the eager ones.

    Raises:
        ProofError: one of them is not there, or there are more or fewer.
    """
    boxes, labels, scores = (each.cpu().double() for each in found[:3])
    their_boxes, their_labels, their_scores = (
        each.detach().cpu().double() for each in expected[:3]
    )
    if len(boxes) != len(their_boxes):
        raise ProofError(f"{runtime} finds {len(boxes)} objects, eager PyTorch {len(their_boxes)}")
    left = torch.ones(len(boxes), dtype=torch.bool)
    places = []
    for box, label, score in zip(boxes, labels, scores, strict=True):
        same = left & (their_labels == label) & ((their_scores - score).abs() <= allowed[1])
        off = _distances(their_boxes, box, same)
        place = int(off.argmin())
        if not off[place] <= allowed[0]:
            raise ProofError(
                f"{runtime} finds label {int(label)}, score {float(score):.4f}, at {box.tolist()}, "
                "which eager PyTorch does not"
            )
        left[place] = False
        places.append(place)
    order = their_scores[places]
    if bool((order[1:] > order[:-1] + allowed[1]).any()):
        raise ProofError(f"{runtime} gives detections in another order than eager PyTorch")
    return places


def _distances(boxes: Tensor, box: Tensor, among: Tensor) -> Tensor:
    """How far boxes (D, 4) are from one, in pixels; infinitely those that it is not among."""
    return (boxes - box).abs().amax(dim=1).where(among, float("inf"))


def _error_of(given: Tensor, eager: "_Eager", place: int | None, runtime: str) -> float | None:
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


@dataclass(frozen=True)
class _Eager:
    """One run of the user's detector: what it found, what the layer and its products gave."""

    request: Request
    about: Found
    image: Tensor
    found: list[Tensor]
    values: list[Recorded]
    products: list[Tensor]
    box_products: list[Tensor]
    regions: Tensor | None

    @classmethod
    def of(cls, request: Request, about: Found, image: Tensor) -> "_Eager":
        detector = request.subject.user_model
        values: list[Recorded] = []
        products: list[Tensor] = []
        box_products: list[Tensor] = []
        with (
            kept_state(detector),
            SoundBatchNorms(),
            _kept(_products(detector, "cls_score", "classification", about), products),
            _kept(_products(detector, "bbox_pred", "regression"), box_products),
            _watched(detector, about.layers, values) as regions,
            torch.enable_grad(),
        ):
            found = list(Whole(detector, request.detections)(image))
        given = regions[0] if regions else None
        return cls(request, about, image, found, values, products, box_products, given)

    @cached_property
    def _moved(self) -> list["_Eager"]:
        """Runs of the image with rounding errors added."""
        generator = torch.Generator().manual_seed(20181)
        runs = []
        for _ in range(_CHANGES):
            noise = torch.randn(self.image.shape, generator=generator).to(self.image)
            moved = self.image * (1 + ROUNDING * noise)
            runs.append(_Eager.of(self.request, self.about, moved))
        return runs

    def moved_maps(self, place: int) -> Iterator[NDArray[np.float64]]:
        """Maps of the same detection in images with rounding errors."""
        box, label = self.found[0][place].detach(), self.found[1][place]
        for run in self._moved:
            off = _distances(run.found[0].detach(), box, run.found[1] == label)
            # Another one may have taken its place.
            if len(off) and float(off.min()) < 1:
                moved = run.map_of(int(off.argmin()))
                if moved is not None:
                    yield moved

    def map_of(self, place: int) -> NDArray[np.float64] | None:
        """The map (H, W) of a detection, None where it is not told what that stems from."""
        origin = self.origin(place)
        if origin is None:
            return None
        number, index = origin
        with torch.enable_grad():
            score = self.products[number].flatten()[index]
            deltas = [value.delta for value in self.values]
            gradients = torch.autograd.grad(score, deltas, retain_graph=True, allow_unused=True)
        reached = [n for n, each in enumerate(gradients) if each is not None and bool(each.any())]
        if not reached:
            return np.zeros(self.image.shape[2:])
        # What other levels are made of comes before them, and so does what is seen less directly.
        nearest = reached[-1]
        value, gradient = self.values[nearest].value, gradients[nearest]
        assert gradient is not None
        if self.regions is not None:
            row = index // self.products[number].shape[1]
            raw = self._raw(value[row], gradient[row])
            return self._over_region(raw, self.regions[row].detach().cpu().double().numpy())
        return self._over_level(self._raw(value[0], gradient[0]))

    def map_of_image(self) -> NDArray[np.float64]:
        """The map (H, W) of all levels that the layers gave, joined at the coarsest's size."""
        levels = [value.value.detach().double().abs() for value in self.values]
        coarsest = min((level.shape[2:] for level in levels), key=lambda size: size.numel())
        joined = torch.cat(
            [nn.functional.interpolate(x, coarsest, mode="bilinear") for x in levels], 1
        )
        return self._over_level(
            self._scaled_raw(self.request.method.kernel(joined[0], **self.request.options))
        )

    def moved_maps_of_image(self) -> Iterator[NDArray[np.float64]]:
        """Those of the image with rounding errors."""
        return (run.map_of_image() for run in self._moved)

    def origin(self, place: int) -> tuple[int, int] | None:
        """Which number of which product raises a detection's score the most.

        Where the score is 1 in single precision none does: then it is the label's number beside
        those that move the box. A box that fills the image is moved by none; there is None then.
        """
        found = _most_moving(self.found[2][place], self.products)
        if found is not None:
            return found
        if not self.box_products:
            return None
        moving = _most_moving(self.found[0][place].sum(), self.box_products, either_way=True)
        if moving is None:
            return None
        number, index = moving
        label = int(self.found[1][place])
        scores, boxes = self.products[number], self.box_products[number]
        if scores.ndim == 2:
            row = index // boxes.shape[1]
            return number, row * scores.shape[1] + label
        cells = boxes.shape[2] * boxes.shape[3]
        anchor, cell = index // cells // 4, index % cells
        labels = scores.shape[1] * 4 // boxes.shape[1]
        return number, (anchor * labels + label) * cells + cell

    def _raw(self, value: Tensor, gradient: Tensor) -> NDArray[np.float64]:
        method = self.request.method
        return self._scaled_raw(method.kernel(value.detach(), gradient, **self.request.options))

    def _scaled_raw(self, raw: Tensor) -> NDArray[np.float64]:
        raw = raw.clamp(min=0) if self.request.relu else raw
        scaled = normalize(raw) if self.request.normalize else raw
        return scaled.detach().cpu().double().numpy()

    @cached_property
    def _frame(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The size of the image as the detector resizes it, and with its padding."""
        detector: Any = self.request.subject.user_model
        if not is_detector(detector):
            size = self.image.shape[2], self.image.shape[3]
            return size, size
        with torch.no_grad():
            batch, _ = detector.transform([self.image[0]])
        (resized,) = batch.image_sizes
        return tuple(resized), tuple(batch.tensors.shape[-2:])

    def _over_level(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        resized, padded = self._frame
        for axis in (0, 1):
            length, points = self.image.shape[2 + axis], raw.shape[axis]
            at = (np.arange(length) + 0.5) / length * resized[axis] / padded[axis] * points - 0.5
            raw = _interpolated(raw, axis, at)
        return self._scaled(raw)

    def _over_region(
        self, raw: NDArray[np.float64], corners: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        resized, _ = self._frame
        for axis, (low, high) in enumerate(zip(corners[[1, 0]], corners[[3, 2]], strict=True)):
            length, points = self.image.shape[2 + axis], raw.shape[axis]
            at = (np.arange(length) + 0.5) / length * resized[axis]
            inside = (at >= low) & (at <= high)
            share = (at - low) / max(high - low, 1e-6) * points - 0.5
            raw = _interpolated(raw, axis, share) * np.expand_dims(inside, 1 - axis)
        return self._scaled(raw)

    def _scaled(self, placed: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.request.normalize:
            return placed
        return np.asarray(normalize(placed))


def _interpolated(
    raw: NDArray[np.float64], axis: int, at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values between the points of an axis, and those of its ends beyond them."""
    points = np.arange(raw.shape[axis])
    found: NDArray[np.float64] = np.apply_along_axis(
        lambda values: np.interp(at, points, values), axis, raw
    )
    return found


def _most_moving(
    value: Tensor, products: list[Tensor], either_way: bool = False
) -> tuple[int, int] | None:
    """Which number of which product raises a value the most, or moves it; None where none does."""
    with torch.enable_grad():
        gradients = torch.autograd.grad(value, products, retain_graph=True, allow_unused=True)
    sizes = [each.abs() if either_way and each is not None else each for each in gradients]
    rises = [0.0 if each is None else float(each.max()) for each in sizes]
    number = int(np.argmax(rises))
    found = sizes[number]
    return (number, int(found.argmax())) if found is not None and rises[number] > 0 else None


@contextmanager
def _kept(modules: list[nn.Module], values: list[Tensor]) -> Iterator[None]:
    """While it lasts, what each of the modules returns is kept, with its history."""

    def keep(module: nn.Module, arguments: Any, returned: Tensor) -> None:
        values.append(returned)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _watched(
    detector: nn.Module, layers: Sequence[str], values: list[Recorded]
) -> Iterator[list[Tensor]]:
    """While it lasts, what the layers give is noted, and the regions that are looked at."""
    regions: list[Tensor] = []

    def note(module: nn.Module, arguments: Any, returned: Any) -> Any:
        leaves, structure = tree_flatten(returned)
        changed = []
        for leaf in leaves:
            delta = torch.zeros_like(leaf, requires_grad=True)
            values.append(Recorded(leaf.detach().clone(), delta))
            changed.append(leaf + delta)
        return tree_unflatten(changed, structure)

    def see(module: nn.Module, arguments: Any) -> None:
        regions.extend(arguments[1])

    handles = [detector.get_submodule(layer).register_forward_hook(note) for layer in layers]
    pools = [module for name, module in detector.named_modules() if name == _REGIONS]
    handles += [module.register_forward_pre_hook(see) for module in pools]
    try:
        yield regions
    finally:
        for handle in handles:
            handle.remove()


_REGIONS = "roi_heads.box_roi_pool"


def _products(
    detector: nn.Module, of_regions: str, of_levels: str, about: Found | None = None
) -> list[nn.Module]:
    """The modules whose numbers become scores, or boxes, by their names in torchvision; in other
    detectors those that the graph told, and none of boxes.
    """
    if not is_detector(detector):
        return [detector.get_submodule(name) for name in about.products] if about else []
    known = dict(detector.named_modules())
    head = f"head.{of_levels}_head"
    for name in (f"roi_heads.box_predictor.{of_regions}", f"{head}.cls_logits", f"{head}.bbox_reg"):
        if name in known:
            return [known[name]]
    levels: Any = known[f"{head}.module_list"]
    return [level[-1] if isinstance(level, nn.Sequential) else level for level in levels]
