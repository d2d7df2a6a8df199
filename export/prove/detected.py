"""Detected: one run of the user's detector, eager, with hooks and autograd, and its maps.

Nothing of the traced graphs is used. Which number of which product a detection stems from is told
by autograd: it is the one that raises its score the most.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from camcore.export.detectors.coordinates import COORDINATES
from camcore.export.detectors.matches import MATCHES
from camcore.export.detectors.whole import Whole, is_detector
from camcore.export.prove.eager import Recorded
from camcore.export.prove.prove import ROUNDING
from camcore.export.prove.reruns import ablated_maps, masked_maps
from camcore.export.prove.watch import SoundBatchNorms
from camcore.export.request import Found, Request
from camcore.export.trace.state import kept_state
from camcore.scaling import normalize

# How often it is tried how far a rounding error of the image moves a map.
_CHANGES = 6


@dataclass(frozen=True)
class Detected:
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
    def of(cls, request: Request, about: Found, image: Tensor) -> "Detected":
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
    def _moved(self) -> list["Detected"]:
        """Runs of the image with rounding errors added."""
        generator = torch.Generator().manual_seed(20181)
        runs = []
        for _ in range(_CHANGES):
            noise = torch.randn(self.image.shape, generator=generator).to(self.image)
            moved = self.image * (1 + ROUNDING * noise)
            runs.append(Detected.of(self.request, self.about, moved))
        return runs

    def moved_maps(self, place: int) -> Iterator[NDArray[np.float64]]:
        """Maps of the same detection in images with rounding errors."""
        box, label = self.found[0][place].detach(), self.found[1][place]
        for run in self._moved:
            off = distances_to(run.found[0].detach(), box, run.found[1] == label)
            # Another one may have taken its place.
            if len(off) and float(off.min()) < 1:
                moved = run.map_of(int(off.argmin()))
                if moved is not None:
                    yield moved

    def map_of(self, place: int) -> NDArray[np.float64] | None:
        """The map (H, W) of a detection, None where it is not told what that stems from."""
        if self.request.subject.target.name in MATCHES:
            return self._reruns[place]
        origin = None
        explained = self._coordinate(place)
        if explained is None:
            origin = self.origin(place)
            if origin is None:
                return None
            explained = self.products[origin[0]].flatten()[origin[1]]
        with torch.enable_grad():
            deltas = [value.delta for value in self.values]
            gradients = torch.autograd.grad(explained, deltas, retain_graph=True, allow_unused=True)
        reached = [n for n, each in enumerate(gradients) if each is not None and bool(each.any())]
        if not reached:
            return np.zeros(self.image.shape[2:])
        # What other levels are made of comes before them, and so does what is seen less directly.
        nearest = reached[-1]
        value, gradient = self.values[nearest].value, gradients[nearest]
        assert gradient is not None
        if self.regions is not None:
            row = self._row(origin, gradient)
            raw = self._raw(value[row], gradient[row])
            return self._over_region(raw, self.regions[row].detach().cpu().double().numpy())
        return self._over_level(self._raw(value[0], gradient[0]))

    def _coordinate(self, place: int) -> Tensor | None:
        """Of a detection's box, where that is what is explained."""
        parts = COORDINATES.get(self.request.subject.target.name)
        if parts is None:
            return None
        box = self.found[0][place]
        with torch.enable_grad():
            return sum((sign * box[axis] for axis, sign in parts), start=box.new_zeros(()))

    def _row(self, origin: tuple[int, int] | None, gradient: Tensor) -> int:
        """Of which region a detection is: no other has a gradient."""
        if origin is None:
            return int(gradient.abs().flatten(1).amax(1).argmax())
        return origin[1] // self.products[origin[0]].shape[1]

    def map_of_image(self) -> NDArray[np.float64]:
        """The map (H, W) of all levels that the layers gave, or of all detections together."""
        if self.request.subject.target.name in MATCHES:
            return self._reruns[0]
        kernel = partial(self.request.method.kernel, **self.request.options)
        return self._largest([kernel(each[0]) for each in self._activations])

    def _largest(self, raw: Sequence[Tensor]) -> NDArray[np.float64]:
        """Of maps (h, w), one for each activation, placed in the image."""
        maps = [self._placed(self._scaled_raw(each)) for each in raw]
        return self._scaled(np.max(maps, axis=0))

    @property
    def _activations(self) -> list[Tensor]:
        """What has a map each: every level, or all joined."""
        if self.request.combine == "max":
            return [value.value.detach().double().abs() for value in self.values]
        return [self._joined]

    @property
    def _joined(self) -> Tensor:
        """All levels, (1, C, h, w), joined at the coarsest's size."""
        levels = [value.value.detach().double().abs() for value in self.values]
        coarsest = min((level.shape[2:] for level in levels), key=lambda size: size.numel())
        return torch.cat(
            [nn.functional.interpolate(x, coarsest, mode="bilinear") for x in levels], 1
        )

    @cached_property
    def _reruns(self) -> list[NDArray[np.float64]]:
        """The map of each detection, or of all together, by what other runs find of them."""
        with SoundBatchNorms(), kept_state(self.request.subject.user_model):
            if not self.values:
                masked = masked_maps(self.request, self.image, self.found)
                return [self._scaled_raw(each) for each in masked]
            joined, activations = self._joined[0], [each[0] for each in self._activations]
            of_each = ablated_maps(
                self.request, self.about, self.image, self.found, joined, activations
            )
            return [self._largest(raw) for raw in zip(*of_each, strict=True)]

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
        return self._scaled(self._placed(raw))

    def _placed(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """A map (h, w) of a level in the image, (H, W)."""
        resized, padded = self._frame
        for axis in (0, 1):
            length, points = self.image.shape[2 + axis], raw.shape[axis]
            at = (np.arange(length) + 0.5) / length * resized[axis] / padded[axis] * points - 0.5
            raw = _interpolated(raw, axis, at)
        return raw

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


def distances_to(boxes: Tensor, box: Tensor, among: Tensor) -> Tensor:
    """How far boxes (D, 4) are from one, in pixels; infinitely those that it is not among."""
    return (boxes - box).abs().amax(dim=1).where(among, float("inf"))
