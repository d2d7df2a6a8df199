"""The arguments that several commands share, and what is made of them."""

from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from camcore.card import ImageSpec
from camcore.errors import FileError, InputError

if TYPE_CHECKING:
    from camcore.adapters.sources.built_model import BuiltModel

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A torchvision builder (resnet18), timm:NAME, hf:NAME or hf:FOLDER (transformers), "
        "module:function (a function that returns an nn.Module), an .onnx file, or scenes (the "
        "demo classifier).",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        metavar="DEFAULT|none|NAME|FILE[:KEY]",
        help="DEFAULT, none, one of torchvision's names (IMAGENET1K_V2), or a file with a state "
        "dict (.safetensors, .pt, .pth, or the .index.json of several); FILE:KEY for one of those "
        "in a checkpoint.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Image size, 224 or 224x320 (height x width).",
        show_default="the weights' own, or 224",
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        metavar="T",
        min=2,
        help="The model takes videos (B, T, C, H, W), whose frames it folds into its batch: a map "
        "of each frame. T is the example's number, free in the file where the model allows it.",
        show_default="images",
    ),
]
ModelFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="An .onnx, .pt or .pt2 file that camcore wrote.")
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Images of one shape that are run together, at most.")
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to run.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="How many threads run the file.", show_default="every core"),
]
OnRay = Annotated[
    bool,
    typer.Option(
        "--ray", help="Run on the Ray cluster of RAY_ADDRESS, or on one that is started here."
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(help="A text file with one class name per line.", show_default="the model's own"),
]
ImageFolder = Annotated[Path, typer.Option(help="The folder of the images.")]
AnnotationsFile = Annotated[
    Path | None,
    typer.Option(help="A COCO JSON file (instances.json), or a folder of VOC XML files."),
]


def parse_size(size: str | None) -> tuple[int, int] | None:
    """`--size` as (height, width).

    Raises:
        InputError: it is neither a number nor two with an x between.

    >>> parse_size("224x320")
    (224, 320)
    """
    if size is None:
        return None
    lengths = parse_lengths("size", size)
    return lengths[0], lengths[-1]


def parse_lengths(option: str, text: str, besides: str = "") -> list[int]:
    """One length, or a height and a width, of an option that may say something else `besides`.

    Raises:
        InputError: it is neither a number nor two with an x between.

    >>> parse_lengths("resize", "224x320")
    [224, 320]
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(
            f"--{option} {text!r}; expected 224, or height x width as in 224x320{besides}"
        )
    return list(map(int, parts))


def read_names(path: Path) -> tuple[str, ...]:
    """The class names of a text file, one a line; blank lines at its end are none.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)


def own_names(built: "BuiltModel", images: Any, **explained: Any) -> tuple[str, ...] | None:
    """The names that a model states for its classes, None where they are of another number: they
    may be of another head than it has now. `explained` is its `target` and `output`.
    """
    from camcore.export import count_classes

    if built.class_names is None:
        return None
    count = count_classes(built.model, images, **explained)
    return built.class_names if count == len(built.class_names) else None


def example(built: "BuiltModel", size: tuple[int, int] | None, frames: int | None = None) -> Any:
    """Images to trace the model with, or videos of so many frames; only their shape matters.

    Raises:
        InputError: the model needs more than images.
    """
    import torch

    needed = [
        name
        for name, parameter in signature(built.model.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) > 1:
        raise InputError(
            f"{built.name} takes {', '.join(needed)}, of which the command line knows the first. "
            "From Python: camcore.export.explain(model, (image, ...)) with an example of each"
        )

    from camcore.adapters.sources.built_model import traced_size

    times = () if frames is None else (frames,)
    return torch.zeros(2, *times, built.image.channels, *(size or traced_size(built.image)))


def example_photo(
    built: "BuiltModel", photo: Path | None, size: tuple[int, int] | None
) -> tuple[Any, ImageSpec]:
    """One image to explain a detector with, in which it should find something, and how photographs
    become such images.

    Of the size asked for, else the photograph's own; without one it is noise. Detectors normalise
    by themselves, unless it is stated that this one does not.
    """
    import torch

    from camcore.adapters.images import prepare, read_image

    spec, channels = built.image, built.image.channels
    pixels = None if photo is None else read_image(photo)
    height, width = size or (_DETECTORS_SIZE if pixels is None else pixels.shape[:2])
    mean = (0.0,) * channels if "mean" in spec.assumed else spec.mean
    std = (1.0,) * channels if "std" in spec.assumed else spec.std
    left = tuple(name for name in spec.assumed if name == "colour")
    spec = replace(spec, mean=mean, std=std, resize=size, crop=None, assumed=left)
    if pixels is not None:
        array, _ = prepare(pixels, spec)
        return torch.from_numpy(array), spec
    noise = torch.rand(1, channels, 9, 9, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    return smooth.clamp(0, 1), spec


# That of a photograph of COCO's, height x width.
_DETECTORS_SIZE = (480, 640)
