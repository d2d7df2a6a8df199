"""Resizing: how torchvision's detectors resize and pad an image, in a graph of images of any size.

Torchvision computes the size in Python, where a graph would take the example's for that of every
image. Here it is computed by tensors, in the same double precision.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from camcore.export.detectors.geometry import Frame, Framing
from camcore.export.trace.graphs import module_of

aten = torch.ops.aten

_READS = {aten.item.default, aten._local_scalar_dense.default}
_BOUND = aten.sym_constrain_range_for_size.default

# Below it PyTorch takes sizes for special cases.
_LEAST = 2


def takes_any_size(detector: nn.Module) -> bool:
    """Whether a detector of torchvision resizes images in the way that is known here."""
    return type(getattr(detector, "transform", None)) is GeneralizedRCNNTransform


def framing_of(detector: nn.Module) -> Framing:
    """The frame of an image of any size; of a detector that resizes nothing, the image's own."""
    if not takes_any_size(detector):
        return lambda image: Frame(*[(image.shape[2], image.shape[3])] * 3)
    how: Any = detector.transform

    def framing(image: Tensor) -> Frame:
        size = image.shape[2], image.shape[3]
        if how.fixed_size is not None:
            resized: tuple[Any, Any] = tuple(reversed(how.fixed_size))
        else:
            sides = _resized(image, how.min_size[-1], how.max_size)
            resized = sides[0], sides[1]
        height, width = (_multiple(side, how.size_divisible) for side in resized)
        return Frame(size, resized, (height, width))

    return framing


def _resized(image: Tensor, shortest: float, longest: float) -> Tensor:
    """Height and width (2,), int64, that an image (..., H, W) is resized to."""
    sides = torch.tensor([image.shape[-2], image.shape[-1]], dtype=torch.float64)
    # A number divided by a tensor would be multiplied by its reciprocal, and rounded twice.
    low, high = torch.tensor([shortest, longest], dtype=torch.float64)
    scale = torch.minimum(low / sides.min(), high / sides.max())
    return (sides * scale).floor().to(torch.int64)


def _multiple(side: Any, of: int) -> Any:
    return (side + of - 1) // of * of


def resize_image(
    image: Tensor,
    shortest: float,
    longest: float,
    target: None = None,
    fixed_size: tuple[int, int] | None = None,
) -> tuple[Tensor, None]:
    """In place of torchvision's `_resize_image_and_masks`, of an image (C, H, W) without masks."""
    if fixed_size is not None:
        size: list[Any] = [fixed_size[1], fixed_size[0]]
    else:
        size = [side.item() for side in _resized(image, shortest, longest)]
        for side in size:
            torch._check(side >= _LEAST)
            torch._check(side <= longest)
    return F.interpolate(image[None], size=size, mode="bilinear")[0], target


def pad_image(images: Sequence[Tensor], size_divisible: int) -> Tensor:
    """In place of `GeneralizedRCNNTransform.batch_images`, of one image (C, H, W): (1, C, *S)."""
    (image,) = images
    height, width = image.shape[1:]
    below, right = (_multiple(side, size_divisible) - side for side in (height, width))
    return F.pad(image, (0, right, 0, below))[None]


def keep_bounds(graph: fx.GraphModule, detector: Any) -> None:
    """Have a traced detector say between which bounds an image's sides are when it is resized: if
    it is traced again, they are wanted, and nothing else tells.
    """
    for node in graph.graph.nodes:
        if node.target in _READS and module_of(node) == "transform":
            with graph.graph.inserting_after(node):
                bounds = {"min": _LEAST, "max": detector.transform.max_size}
                graph.graph.call_function(_BOUND, (node,), bounds)
