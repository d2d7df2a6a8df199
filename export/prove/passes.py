"""The references of many passes: the user's model on every masked image or activation.

Image by image, and nothing of the traced graphs is used.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from camcore.ablation import channels_to_ablate
from camcore.export.find.grids import Layout
from camcore.export.find.modules import split_call
from camcore.export.prove.eager import Eager, Run
from camcore.export.request import Request
from camcore.masking import rise_map, rise_masks, sscam_masks, strongest_channels

# As many passes as one batch holds.
_AT_ONCE = 32

# What is done to an activation of as many rows as there are numbers.
Change = Callable[[Tensor, Tensor], Tensor]


class _Passes(Eager):
    """Maps of scores of many passes, one image and one layer after the other."""

    # Which of the calls of the layer is looked at.
    at_call = 0

    @torch.no_grad()
    def raw_maps(self, run: Run, classes: Tensor) -> list[Tensor]:
        rows = [[each[n : n + 1] for each in run.inputs] for n in range(len(run.inputs[0]))]
        maps = []
        for found, layer in zip(self.found.by_layer(), run.layers, strict=True):
            alone = type(self)(self.request, found)
            alone.at_call = layer.call
            pairs = zip(rows, classes, strict=True)
            maps.append(torch.stack([alone.maps_of_image(row, ids) for row, ids in pairs]))
        return maps

    def maps_of_image(self, inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
        """Raw maps (K, *S) of classes (K,) of one image, at the one layer."""
        raise NotImplementedError

    def _layer_passes(
        self,
        inputs: Sequence[Tensor],
        classes: Tensor,
        numbers: Tensor,
        change: Change,
    ) -> Tensor:
        """Scores (K, n) of one image with its layer's activation changed in n ways."""
        found = []
        for chunk in torch.split(numbers, _AT_ONCE):
            scores = self._broadcast_pass(inputs, classes, partial(_changed, change, chunk))
            if scores is None or len(scores) != len(chunk):
                rows = [torch.cat([each] * len(chunk)) for each in inputs]
                with self._at_layer(partial(_changed, change, chunk)):
                    scores = self._explained(rows, classes)
            found.append(scores)
        return torch.cat(found).t()

    def _broadcast_pass(
        self,
        inputs: Sequence[Tensor],
        classes: Tensor,
        change: Callable[[Tensor], Tensor],
    ) -> Tensor | None:
        """One image up to the layer, and as many rows as there are changes behind it.

        What comes before the layer is computed once. None, or other than as many rows, if what
        follows cannot do with that: a model may concatenate, or remember the size of its batch.
        """
        try:
            with self._at_layer(change):
                return self._explained(inputs, classes)
        except (RuntimeError, IndexError):
            return None

    def _image_passes(self, inputs: Sequence[Tensor], classes: Tensor, masks: Tensor) -> Tensor:
        """Scores (K, n) of one image behind n masks."""
        image, *others = inputs
        found = []
        for chunk in torch.split(masks, _AT_ONCE):
            rows = [torch.cat([each] * len(chunk)) for each in others]
            found.append(self._explained([image * chunk[:, None], *rows], classes))
        return torch.cat(found).t()

    def _explained(self, inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
        """What is explained of classes (K,), for each of a batch, (n, K)."""
        scores: Tensor = self.request.subject(*inputs)[-1]
        contrast = self.request.subject.target.contrast
        if contrast is None:
            return scores[:, classes]
        columns = [contrast(scores, each.expand(len(scores), 1)) for each in classes]
        return torch.cat(columns, dim=1)

    def _activation(self, inputs: Sequence[Tensor]) -> Tensor:
        seen: list[Tensor] = []

        def note(output: Tensor) -> Tensor:
            seen.append(output.clone())
            return output

        with self._at_layer(note):
            self.request.subject(*inputs)
        return seen[-1]

    @contextmanager
    def _at_layer(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While it lasts, for one pass, the layer's first tensor is what `change` makes of it."""
        calls = itertools.count()

        def hook(module: Any, arguments: Any, returned: Any) -> Any:
            if next(calls) != self.at_call:
                return returned
            leaves, structure = tree_flatten(returned)
            place = next(n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
            leaves[place] = change(leaves[place])
            return tree_unflatten(leaves, structure)

        name, _ = split_call(self.found.layers[0])
        layer = self.request.subject.user_model.get_submodule(name)
        handle = layer.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


class Ablations(_Passes):
    """A pass without each channel, and one with all of them."""

    def maps_of_image(self, inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
        (layout,), (kernel,), options = self.found.layouts, self.kernels(), self.request.options
        activation = self._activation(inputs)
        channels_first = layout.channels_first(activation)
        rank = layout.spatial_ndim
        channels = torch.arange(channels_first.shape[1], device=activation.device)
        if options["ratio"] < 1:
            (channels,) = channels_to_ablate(
                channels_first, ratio=options["ratio"], spatial_ndim=rank
            )
        axis = 1 if layout.kind == "channels_first" else -1

        def without(activations: Tensor, numbers: Tensor) -> Tensor:
            for row, channel in zip(activations, numbers.tolist(), strict=True):
                if channel >= 0:
                    row.select(axis if axis < 0 else axis - 1, channel).fill_(options["value"])
            return activations

        whole = channels.new_tensor([-1])
        scores = self._layer_passes(inputs, classes, torch.cat([whole, channels]), without)
        maps: Tensor = kernel(channels_first[:, channels], scores[:, 0], scores[:, 1:])
        return maps


class ChannelMasks(_Passes):
    """A pass of the image behind each channel as a mask."""

    def maps_of_image(self, inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
        (layout,), (kernel,), options = self.found.layouts, self.kernels(), self.request.options
        activations = layout.channels_first(self._activation(inputs))
        rank = layout.spatial_ndim
        if options["channels"] is not None:
            (channels,) = strongest_channels(
                activations, count=options["channels"], spatial_ndim=rank
            )
            activations = activations[:, channels]
        image, *_ = inputs
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]
        masks = F.interpolate(
            activations, image.shape[2:], mode=mode, align_corners=options["align_corners"]
        )[0]
        space = list(range(1, rank + 1))
        masks = masks - masks.amin(space, keepdim=True)
        # A constant channel shows nothing: 0 / 0 is 0.
        masks = (masks / masks.amax(space, keepdim=True)).nan_to_num()
        samples, count = options.get("samples", 1), len(masks)
        varied = torch.cat([_varied(self.request, masks, sample) for sample in range(samples)])
        scores = self._image_passes(inputs, classes, varied)
        if "samples" in options:
            scores = scores.reshape(-1, samples, count).movedim(1, 0)
        maps: Tensor = kernel(activations, scores)
        return maps


class Points(_Passes):
    """A pass of each point or token by itself."""

    def maps_of_image(self, inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
        (layout,), options = self.found.layouts, self.request.options
        grid = layout.channels_first(self._activation(inputs)).shape[2:]

        def alone(activations: Tensor, numbers: Tensor) -> Tensor:
            masks = F.one_hot(numbers, grid.numel()).to(activations).reshape(-1, *grid)
            if options["gaussian"]:
                for axis in range(1, masks.ndim):
                    masks = _blurred(masks, axis)
            return _times(activations, masks, layout)

        points = torch.arange(grid.numel(), device=inputs[0].device)
        return self._layer_passes(inputs, classes, points, alone).reshape(-1, *grid)


class RandomMasks(_Passes):
    """A pass of the image behind each random mask."""

    def maps_of_image(self, inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
        options, image = self.request.options, inputs[0]
        count = options["n_masks"]
        kinds = {name: options[name] for name in ("cells", "probability", "seed")}
        total = image.new_zeros(len(classes), *image.shape[2:])
        for numbers in torch.split(torch.arange(count, device=image.device), _AT_ONCE):
            masks = rise_masks(numbers, tuple(image.shape[2:]), image, **kinds)
            scores = self._image_passes(inputs, classes, masks)
            total = total + torch.einsum("kn,nhw->khw", scores, masks)
        maps: Tensor = rise_map(total, n_masks=count, probability=options["probability"])
        return maps


def _varied(request: Request, masks: Tensor, sample: int) -> Tensor:
    options = request.options
    if request.method.name == "sscam":
        indices = torch.arange(len(masks), device=masks.device) + sample * len(masks)
        noisy: Tensor = sscam_masks(
            masks,
            indices,
            std=options["std"],
            seed=options["seed"],
            spatial_ndim=masks.ndim - 1,
        )
        return noisy
    if request.method.name == "iscam":
        factor: float = sum((n + 1) / options["samples"] for n in range(sample + 1))
        return masks * factor
    return masks


def _blurred(masks: Tensor, axis: int) -> Tensor:
    """A quarter, a half and a quarter of each value's neighbourhood along an axis."""
    padded = F.pad(masks.movedim(axis, -1), (1, 1))
    blurred = padded[..., 1:-1] / 2 + (padded[..., :-2] + padded[..., 2:]) / 4
    return blurred.movedim(-1, axis)


def _times(activations: Tensor, masks: Tensor, layout: Layout) -> Tensor:
    if layout.turn is not None:
        masks = _as_in_the_layer(masks, activations, layout)
    if layout.kind == "channels_first":
        return activations * masks[:, None]
    if layout.kind == "channels_last":
        return activations * masks[..., None]
    activations[:, layout.prefix :] *= masks.flatten(1)[..., None]
    return activations


def _as_in_the_layer(masks: Tensor, activations: Tensor, layout: Layout) -> Tensor:
    """Masks (n, *S) of the image with each point's where the layer has that point.

    Read off the points' numbers as the layer's map has them.
    """
    plain = replace(layout, turn=None).channels_first(activations[:1])
    numbers = torch.arange(plain[0, 0].numel(), device=masks.device).reshape(plain.shape[2:])
    upright = layout.turn.upright(numbers).flatten()  # type: ignore[union-attr]
    found = torch.empty_like(masks.flatten(1))
    found[:, upright] = masks.flatten(1)
    return found.reshape(-1, *plain.shape[2:])


def _changed(change: Change, numbers: Tensor, output: Tensor) -> Tensor:
    rows = output.expand(len(numbers), *output.shape[1:])
    return change(rows.clone(), numbers)
