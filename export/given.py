"""Given: what the caller of `explain` hands over, checked and completed before minutes of work."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camcore.card import CLASS_IDS, ImageSpec, assume_image
from camcore.errors import InputError, unknown_name
from camcore.export.trace.checks import check_example
from camcore.export.trace.subject import Subject

# A number that no size of a model is likely to have, as a trace takes equal sizes for one.
EXAMPLE_QUERIES = 19


def as_inputs(example: Any) -> tuple[Tensor, ...]:
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(each, Tensor) for each in inputs) or inputs[0].ndim < 2:
        raise InputError(
            f"the example is {type(example).__name__} {[type(each).__name__ for each in inputs]}, "
            "expected images (B, C, H, W), or a tuple of tensors with all that the model takes, "
            "images first"
        )
    return inputs


def of_frames(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A model's inputs with its videos (B, T, C, H, W) as (B, C, T, H, W).

    Raises:
        InputError: they are none, or the model does not take them.
    """
    video, *others = inputs
    if video.ndim != 5 or video.shape[1] < 2:
        raise InputError(
            f"frames=True is for videos (B, T, C, H, W) of two frames or more, the example is of "
            f"shape {tuple(video.shape)}"
        )
    check_example(model, inputs)
    return video.transpose(1, 2), *others


def assumed(image: Tensor, frames: bool) -> ImageSpec:
    """The spec of images (B, C, *S), or of frames, of which nobody said anything."""
    if image.ndim != 4 and not frames:
        return ImageSpec(None, None)
    return assume_image((image.shape[-2], image.shape[-1]), image.shape[1])


def check_class_names(class_names: Sequence[str] | None, num_classes: int) -> None:
    if class_names is not None and len(class_names) != num_classes:
        raise InputError(
            f"{len(class_names)} class names were given for a model of {num_classes} classes"
        )


def check_class_ids(class_ids: str, top: int | None) -> None:
    if class_ids not in CLASS_IDS:
        raise unknown_name("choice of class_ids", str(class_ids), CLASS_IDS)
    if top is not None and class_ids != "best":
        raise InputError(
            f"top={top} is for class_ids='best', got {class_ids!r}: K times -1 in the input "
            "`class_ids` asks for the K best"
        )
    if top is not None and not (isinstance(top, int) and top > 0):
        raise InputError(f"expected top to be 1 or more, got {top!r}")


def check_queries(subject: Subject, class_ids: str, class_names: Sequence[str] | None) -> None:
    """Raises an `InputError` for what is not known before the queries are."""
    name = subject.target.name
    if class_ids == "all":
        raise InputError(
            f"class_ids='all' and the target {name!r} do not go together, whose queries come when "
            "the file runs: name all of them then"
        )
    if class_names is not None:
        raise InputError(
            f"the target {name!r} has no classes but its queries: leave out class_names"
        )


def with_queries(subject: Subject, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs, and random queries behind them where the target takes some."""
    if not subject.takes_queries:
        return inputs
    check_example(subject.ask, inputs)
    with torch.no_grad():
        _, embedding = subject.embed(*inputs)
    shape = (len(embedding), EXAMPLE_QUERIES, embedding.shape[1])
    generator = torch.Generator().manual_seed(0)
    return *inputs, torch.randn(shape, generator=generator).to(embedding)


def check_pixels(spec: ImageSpec, image: Tensor) -> ImageSpec:
    channels = image.shape[1]
    if {len(spec.mean), len(spec.std)} - {1, channels}:
        raise InputError(
            f"images of {channels} channels want a mean and a standard deviation for each, got "
            f"{spec.mean} and {spec.std}: give an image_spec that fits"
        )
    return spec
