"""A model that a source gave, and what is known about its classes and its input."""

from dataclasses import dataclass, replace

from torch import nn

from camcore.card import ImageSpec


@dataclass(frozen=True)
class BuiltModel:
    """A model, and what is known about its classes and its input."""

    model: nn.Module
    name: str
    class_names: tuple[str, ...] | None
    image: ImageSpec


def with_size(spec: ImageSpec, size: tuple[int, int]) -> ImageSpec:
    """The spec for images of another size (height, width).

    A square keeps the share of the image that its crop shows. Any other shape means the whole
    image: stretched to that shape where the file's size is fixed, as it is where it is free.

    >>> with_size(ImageSpec(None, None, resize=256, crop=(224, 224)), (448, 448)).resize
    512
    """
    if spec.crop == size:
        return spec
    if size[0] != size[1] or spec.resize is None or spec.crop is None:
        return replace(spec, resize=None, crop=None)
    return replace(spec, resize=round(spec.resize * size[0] / spec.crop[0]), crop=size)
