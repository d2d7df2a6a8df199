"""How images become a model's input, as options of the command line."""

from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from camcore.adapters import tables
from camcore.adapters.cli.arguments import parse_lengths
from camcore.adapters.cli.console import out
from camcore.card import ImageSpec
from camcore.errors import InputError

_PANEL = "Images"

Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="What is subtracted from each channel, of pixels in [0, 1].",
        show_default="the model's own, or ImageNet's, 0.485,0.456,0.406",
        rich_help_panel=_PANEL,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="What each channel is then divided by.",
        show_default="the model's own, or ImageNet's, 0.229,0.224,0.225",
        rich_help_panel=_PANEL,
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW|none",
        help="The length of the shorter side, or a height and width to stretch to.",
        show_default="the model's own, or --size",
        rich_help_panel=_PANEL,
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW|none",
        help="The middle that is then cut out.",
        show_default="the model's own, or --size",
        rich_help_panel=_PANEL,
    ),
]
Interpolation = Annotated[
    Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] | None,
    typer.Option(
        help="How pixels are resized.",
        show_default="the model's own, or bilinear",
        rich_help_panel=_PANEL,
    ),
]
Colour = Annotated[
    Literal["rgb", "bgr", "grey"] | None,
    typer.Option(
        "--colour",
        "--color",
        case_sensitive=False,
        help="The order of the colours, or one grey channel.",
        show_default="the model's own, or rgb",
        rich_help_panel=_PANEL,
    ),
]


def preparation_fields(
    *,
    mean: str | None,
    std: str | None,
    resize: str | None,
    crop: str | None,
    interpolation: str | None,
    colour: str | None,
) -> dict[str, Any]:
    """The fields of an `ImageSpec` that options state; `channels` only where one is grey.

    Raises:
        InputError: an option that is none of what its help says.

    >>> options = dict.fromkeys(["mean", "std", "crop", "interpolation"])
    >>> preparation_fields(**options, resize="96x128", colour="bgr")
    {'resize': (96, 128), 'colour': 'BGR'}
    """
    channels = 1 if colour == "grey" else 3
    found: dict[str, Any] = {}
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            found[name] = _values(name, text, channels)
    if 0.0 in found.get("std", ()):
        raise InputError(f"--std {std} divides by zero")
    if resize is not None:
        found["resize"] = _size("resize", resize)
    if crop is not None:
        size = _size("crop", crop)
        found["crop"] = (size, size) if isinstance(size, int) else size
    if interpolation is not None:
        found["interpolation"] = interpolation
    if colour == "grey":
        found["channels"] = 1
    elif colour is not None:
        found["colour"] = colour.upper()
    return found


def as_asked(spec: ImageSpec, size: tuple[int, int] | None, fields: dict[str, Any]) -> ImageSpec:
    """The model's own spec, for images of the size asked for, with what options state."""
    from camcore.adapters.sources.built_model import with_size, with_stated

    return with_stated(spec if size is None else with_size(spec, size), fields)


def tell_assumptions(spec: ImageSpec) -> None:
    """Says what of the preparation nobody stated, and the options that would."""
    if tables.assumptions(spec):
        out.print(
            f"[yellow]assumed[/yellow], as nothing says otherwise: "
            f"{escape(tables.assumptions(spec))}. If the model was trained on other images, give "
            f"{tables.assumed_options(spec)}",
            soft_wrap=True,
        )


def _values(name: str, text: str, channels: int) -> tuple[float, ...]:
    """As many numbers as there are channels, of which one stands for all."""
    try:
        values = tuple(map(float, text.replace(",", " ").split()))
    except ValueError:
        values = ()
    if len(values) not in (1, channels):
        raise InputError(
            f"--{name} {text!r}; expected a number for each of {channels} channels, "
            f"as in --{name} 0.5,0.5,0.5, or one for all"
        )
    return values * channels if len(values) == 1 else values


def _size(name: str, text: str) -> int | tuple[int, int] | None:
    if text.lower() == "none":
        return None
    height, *width = parse_lengths(name, text, ", or none")
    return (height, *width) if width else height  # type: ignore[return-value]
