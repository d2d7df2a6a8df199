"""Reruns: the user's detector run again, eager, without a channel or behind a mask.

Nothing of the traced graphs is used.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision.ops import box_iou

from camcore.ablation import channels_to_ablate
from camcore.export.detectors.matches import LEAST_OVERLAP
from camcore.export.detectors.whole import Whole
from camcore.export.request import Found, Request
from camcore.masking import rise_masks


@torch.no_grad()
def ablated_maps(
    request: Request,
    about: Found,
    image: Tensor,
    found: Sequence[Tensor],
    joined: Tensor,
    activations: Sequence[Tensor],
) -> list[Tensor]:
    """Raw maps (D, h, w) of all detections, for each activation (c, h, w): the joined levels
    (C, h, w) of a pyramid, or the levels one by one.
    """
    options = request.options
    channels = torch.arange(len(joined))
    if options["ratio"] < 1:
        channels = channels_to_ablate(joined, ratio=options["ratio"])
    scores = []
    for channel in (-1, *channels.tolist()):
        with _without(request.subject.user_model, about.layers, channel, options["value"]):
            scores.append(
                matched(found, Whole(request.subject.user_model, request.detections)(image))
            )
    every = torch.stack(scores, 1).double()
    if request.subject.target.name == "matches":
        every = every[: request.top].sum(0, keepdim=True)
    lost = torch.zeros(len(every), len(joined), dtype=torch.float64)
    # What was not left out is worth what all is: it loses nothing.
    lost += every[:, :1]
    lost[:, channels] = every[:, 1:]
    parts = torch.split(lost, [len(each) for each in activations], dim=1)
    return [
        request.method.kernel(each.double(), every[:, 0], part)
        for each, part in zip(activations, parts, strict=True)
    ]


@torch.no_grad()
def masked_maps(request: Request, image: Tensor, found: Sequence[Tensor]) -> Tensor:
    """Raw maps (D, H, W) of all detections."""
    options, size = request.options, (int(image.shape[2]), int(image.shape[3]))
    kinds = {name: options[name] for name in ("cells", "probability", "seed")}
    detector = Whole(request.subject.user_model, request.detections)
    total = image.new_zeros(len(found[0]), *size).double()
    for number in range(options["n_masks"]):
        masks = rise_masks(torch.tensor([number]), size, image, **kinds)
        scores = matched(found, detector(image * masks))
        total += scores.double()[:, None, None] * masks.double()
    if request.subject.target.name == "matches":
        total = total[: request.top].sum(0, keepdim=True)
    expected: float = options["n_masks"] * options["probability"]
    return total / expected


def matched(found: Sequence[Tensor], again: Sequence[Tensor]) -> Tensor:
    """How well each detection (D,) is met by those of another run."""
    worth = []
    for box, label in zip(found[0].detach(), found[1], strict=True):
        own = torch.where(again[1] == label)[0]
        overlaps = box_iou(box[None], again[0][own])[0]
        # Boxes without an area overlap nothing: 0 / 0 is no number.
        if not len(own) or not float(overlaps.max()) > LEAST_OVERLAP:
            worth.append(box.new_zeros(()))
        else:
            worth.append(overlaps.max() + again[2][own[overlaps.argmax()]])
    return torch.stack(worth) if worth else found[2].detach()


@contextmanager
def _without(
    detector: nn.Module, layers: Sequence[str], channel: int, value: float
) -> Iterator[None]:
    """While it lasts, one of all channels that the layers give, counted through, has a value."""
    before = itertools.count()

    def hook(module: Any, arguments: Any, returned: Any) -> Any:
        leaves, structure = tree_flatten(returned)
        changed = []
        for leaf in leaves:
            own = leaf.clone()
            for place in range(own.shape[1]):
                if next(before) == channel:
                    own[:, place] = value
            changed.append(own)
        return tree_unflatten(changed, structure)

    with ExitStack() as hooks:
        for layer in layers:
            handle = detector.get_submodule(layer).register_forward_hook(hook)
            hooks.callback(handle.remove)
        yield
