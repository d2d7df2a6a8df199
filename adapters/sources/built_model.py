"""A model that a source gave, and what is known about its classes and its input."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from camcore.card import ImageSpec, Probabilities, assume_image

if TYPE_CHECKING:
    from camcore.export import Explained

# Of a detector as torchvision's are: it resizes and normalises by itself.
PLAIN = ImageSpec(None, None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True)
class BuiltModel:
    """A model, and what is known about its classes and its input.

    `output` is the one that is explained where nobody chooses another, `probabilities` what makes
    probabilities of it. `aliases` are other names of layers, `notes` are for the card. `check`
    compares a written file with where the model came from, and returns what it found, for the
    card's proof.
    """

    model: nn.Module
    name: str
    class_names: tuple[str, ...] | None
    image: ImageSpec
    output: str | None = None
    probabilities: Probabilities | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    check: "Callable[[Explained, Path], Mapping[str, Any]] | None" = None


def with_size(spec: ImageSpec, size: tuple[int, int]) -> ImageSpec:
    """The spec for images of another size (height, width).

    A square keeps the share of the image that its crop shows. Any other shape means the whole
    image, stretched to it. A spec that leaves images as they are still does.

    >>> with_size(ImageSpec(None, None, resize=256, crop=(224, 224)), (448, 448)).resize
    512
    """
    if spec.crop == size or spec.resize is None:
        return spec
    if size[0] != size[1] or isinstance(spec.resize, tuple):
        return replace(spec, resize=size, crop=None)
    if spec.crop is None:
        return replace(spec, resize=size[0])
    return replace(spec, resize=round(spec.resize * size[0] / spec.crop[0]), crop=size)


def traced_size(spec: ImageSpec) -> tuple[int, int]:
    """The size (height, width) of images to trace a model with, as it will see them."""
    if spec.crop is not None:
        return spec.crop
    return spec.resize if isinstance(spec.resize, tuple) else (224, 224)


def with_stated(spec: ImageSpec, fields: dict[str, Any]) -> ImageSpec:
    """The spec with fields that are stated, which what was assumed gives way to.

    Of a crop alone, an assumed resizing leads to its size; of a resizing alone, an assumed crop
    stays where it fits in.

    >>> spec = assume_image((224, 224))
    >>> stated = with_stated(spec, {"resize": 128, "mean": (0.5, 0.5, 0.5)})
    >>> stated.resize, stated.crop, stated.assumed
    (128, None, ('std', 'colour'))
    """
    changed = dict(fields)
    channels = fields.get("channels", spec.channels)
    if channels != spec.channels:
        plain = assume_image((1, 1), channels)
        changed = {"mean": plain.mean, "std": plain.std} | changed
    left = [name for name in spec.assumed if name not in fields]
    if "crop" in fields and "resize" in left and fields["crop"] is not None:
        height, width = fields["crop"]
        changed["resize"] = height if height == width else (height, width)
    if "resize" in fields and "crop" in left:
        resize = fields["resize"]
        if not isinstance(resize, int) or spec.crop is None or resize < max(spec.crop):
            changed["crop"] = None
            left.remove("crop")
    if channels == 1 and "colour" in left:
        left.remove("colour")
    return replace(spec, **changed, assumed=tuple(left))
