"""What methods of many passes ought to give, by the papers: one image, class and pass at a time.

In double precision, by hooks on a copy of the model. Where a method draws numbers at random, they
are camcore's own: that they are random is another test's business.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import camcore
from tests.camcore import references

# From the model's output for one image and a class to what is explained of it.
Objective = Callable[[Any, int], Tensor]


@dataclass(frozen=True)
class Place:
    """A layer, and how its activation is laid out; the default is the image itself."""

    layer: str = ""
    last: bool = False
    prefix: int = 0
    grid: tuple[int, ...] = ()


def logit(output: Any, c: int) -> Tensor:
    return output[0, c]  # type: ignore[no-any-return]


def probability(output: Any, c: int) -> Tensor:
    z = output[0]
    return z[c].exp() / z.exp().sum()  # type: ignore[no-any-return]


def finer(output: Any, c: int) -> Tensor:
    """The class against the three whose scores are nearest, by their probability."""
    z = output[0]
    near = sorted((d for d in range(len(z)) if d != c), key=lambda d: abs(float(z[d] - z[c])))[:3]
    p = z.softmax(0)
    total = sum(p[d] * (z[c] - z[d]) for d in near)
    return total / sum(p[d] for d in near)  # type: ignore[no-any-return]


def maps_of_passes(
    method: str,
    model: nn.Module,
    place: Place,
    inputs: Sequence[Tensor],
    classes: Sequence[Sequence[int]],
    *,
    objective: Objective = logit,
    relu: bool | None = None,
    full_size: bool = True,
    normalize: bool = True,
    eigen_smooth: bool = False,
    **options: Any,
) -> np.ndarray:
    """Maps (B, K, *S) of classes (B, K)."""
    row = camcore.METHODS[method]
    options = row.options | options
    twin = deepcopy(model).double()
    inputs = [value.double() if value.is_floating_point() else value for value in inputs]
    size = tuple(inputs[0].shape[2:])
    maps = []
    for n, ids in enumerate(classes):
        one = _Image(twin, place, [value[n : n + 1] for value in inputs], objective, eigen_smooth)
        for c in ids:
            raw = _RAW[method](one, c, options)
            if not normalize:
                maps.append(references.resize(raw, size) if full_size else raw)
                continue
            rectify = row.relu if relu is None else relu
            # `postprocess` rectifies: shifted, so that it changes nothing.
            raw = raw if rectify else raw - raw.min()
            maps.append(references.postprocess(raw, size if full_size else None))
    found = np.stack(maps)
    return found.reshape(len(classes), -1, *found.shape[1:])


class _Image:
    """One image and its model, and the passes that are made with it."""

    def __init__(
        self,
        model: nn.Module,
        place: Place,
        inputs: list[Tensor],
        objective: Objective,
        eigen_smooth: bool,
    ) -> None:
        self.model, self.place, self.inputs, self.objective = model, place, inputs, objective
        self.eigen_smooth = eigen_smooth
        seen: list[Tensor] = []
        if place.layer:
            self.output(change=lambda value: seen.append(value.clone()) or value)
        self.activation = seen[-1] if seen else inputs[0]

    @torch.no_grad()
    def output(
        self, change: Callable[[Tensor], Tensor] | None = None, image: Tensor | None = None
    ) -> Any:
        """The model's output, with the layer's own changed, or for another image."""
        handles = []
        if change is not None:

            def hook(module: nn.Module, arguments: Any, returned: Tensor) -> Tensor:
                return change(returned.clone())

            handles = [self.model.get_submodule(self.place.layer).register_forward_hook(hook)]
        try:
            return self.model(self.inputs[0] if image is None else image, *self.inputs[1:])
        finally:
            for handle in handles:
                handle.remove()

    def score(self, c: int, **how: Any) -> float:
        return float(self.objective(self.output(**how), c))

    def channels(self) -> np.ndarray:
        """The activation as (C, *S)."""
        value = self.activation[0]
        if self.place.grid:
            value = value[self.place.prefix :].T.reshape(-1, *self.place.grid)
        elif self.place.last:
            value = value.movedim(-1, 0)
        found: np.ndarray = value.numpy()
        return found


def _sum(one: _Image, weights: Sequence[float], channels: np.ndarray) -> np.ndarray:
    """Weighted channels, summed, or on their first principal component."""
    weighted = np.stack([w * a for w, a in zip(weights, channels, strict=True)])
    if one.eigen_smooth:
        flat = references.first_component(weighted.reshape(len(weighted), -1))
        return flat.reshape(channels.shape[1:])
    return weighted.sum(axis=0)


def _ablationcam(one: _Image, c: int, options: dict[str, Any]) -> np.ndarray:
    """w_k = (y - y without channel k) / |y|."""
    channels, y = one.channels(), one.score(c)
    count = max(1, round(options["ratio"] * len(channels)))
    chosen = np.arange(len(channels))
    if count < len(channels):
        chosen = camcore.channels_to_ablate(
            channels, ratio=options["ratio"], spatial_ndim=channels.ndim - 1
        )

    def without(k: int) -> Callable[[Tensor], Tensor]:
        axis = -1 if one.place.last or one.place.grid else 1

        def change(value: Tensor) -> Tensor:
            value.select(axis, k).fill_(options["value"])
            return value

        return change

    weights = [(y - one.score(c, change=without(int(k)))) / (abs(y) + 1e-7) for k in chosen]
    return _sum(one, weights, channels[chosen])


def _masks(one: _Image, options: dict[str, Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The channels that are kept, and each of them enlarged and stretched to [0, 1]."""
    channels, size = one.channels(), tuple(one.inputs[0].shape[2:])
    if options["channels"] is not None:
        strength = [channel.max() for channel in channels]
        channels = channels[np.sort(np.argsort(strength)[-options["channels"] :])]
    masks = []
    for channel in channels:
        mask = channel
        for axis, length in enumerate(size):
            line = _resize_corners if options["align_corners"] else references.resize_line
            mask = np.apply_along_axis(line, axis, mask, length)
        spread = mask.max() - mask.min()
        masks.append((mask - mask.min()) / spread if spread > 1e-12 else np.zeros(size))
    return channels, masks


def _resize_corners(line: np.ndarray, size: int) -> np.ndarray:
    return np.interp(np.linspace(0, len(line) - 1, size), np.arange(len(line)), line)


def _masked_score(one: _Image, c: int, mask: np.ndarray) -> float:
    return one.score(c, image=one.inputs[0] * torch.as_tensor(mask))


def _softmax(scores: Sequence[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def _scorecam(one: _Image, c: int, options: dict[str, Any]) -> np.ndarray:
    channels, masks = _masks(one, options)
    return _sum(one, _softmax([_masked_score(one, c, mask) for mask in masks]), channels)


def _sscam(one: _Image, c: int, options: dict[str, Any]) -> np.ndarray:
    channels, masks = _masks(one, options)
    means = []
    for k, mask in enumerate(masks):
        scores = []
        for i in range(options["samples"]):
            # In single precision, as the file draws it.
            (noise,) = camcore.sscam_masks(
                np.zeros((1, *mask.shape), np.float32),
                np.asarray([i * len(masks) + k]),
                std=options["std"],
                seed=options["seed"],
                spatial_ndim=mask.ndim,
            )
            scores.append(_masked_score(one, c, mask + noise))
        means.append(sum(scores) / len(scores))
    return _sum(one, _softmax(means), channels)


def _iscam(one: _Image, c: int, options: dict[str, Any]) -> np.ndarray:
    """The masks grow by i / n from sample to sample."""
    channels, masks = _masks(one, options)
    n = options["samples"]
    means = []
    for mask in masks:
        grown, scores = 0 * mask, []
        for i in range(1, n + 1):
            grown = grown + mask * i / n
            scores.append(_masked_score(one, c, grown))
        means.append(sum(scores) / n)
    return _sum(one, _softmax(means), channels)


def _reciprocam(one: _Image, c: int, options: dict[str, Any]) -> np.ndarray:
    grid = one.channels().shape[1:]
    raw = np.zeros(grid)
    for point in itertools.product(*map(range, grid)):
        mask = np.zeros(grid)
        if options["gaussian"]:
            for step in itertools.product((-1, 0, 1), repeat=len(grid)):
                there = tuple(p + s for p, s in zip(point, step, strict=True))
                if all(0 <= q < length for q, length in zip(there, grid, strict=True)):
                    mask[there] = math.prod(0.5 if s == 0 else 0.25 for s in step)
        else:
            mask[point] = 1
        raw[point] = one.score(c, change=_alone(one.place, mask))
    return raw


def _alone(place: Place, mask: np.ndarray) -> Callable[[Tensor], Tensor]:
    factors = torch.as_tensor(mask)

    def change(value: Tensor) -> Tensor:
        if place.grid:
            patches = value[:, place.prefix :] * factors.flatten()[:, None]
            return torch.cat([value[:, : place.prefix], patches], dim=1)
        return value * (factors[..., None] if place.last else factors)

    return change


def _rise(one: _Image, c: int, options: dict[str, Any]) -> np.ndarray:
    """The mean of the masks times their scores, over the share of ones."""
    n, p = options["n_masks"], options["probability"]
    masks = camcore.rise_masks(
        np.arange(n),
        tuple(one.inputs[0].shape[2:]),
        np.zeros(1),
        cells=options["cells"],
        probability=p,
        seed=options["seed"],
    )
    raw: np.ndarray = sum(_masked_score(one, c, mask) * mask for mask in masks) / (n * p)
    return raw


_RAW: dict[str, Callable[[_Image, int, dict[str, Any]], np.ndarray]] = {
    "ablationcam": _ablationcam,
    "scorecam": _scorecam,
    "sscam": _sscam,
    "iscam": _iscam,
    "reciprocam": _reciprocam,
    "vit-reciprocam": _reciprocam,
    "rise": _rise,
}
