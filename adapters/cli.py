"""The command line: `camcore export`, `run`, `inspect`, `methods`, `layers`.

Each command imports what it needs when it runs: running a file never imports torch.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from typer.core import TyperGroup
except ModuleNotFoundError as error:
    raise SystemExit(
        f"the camcore command needs {error.name}: pip install 'camcore[run]', or 'camcore[gpu]' "
        "for CUDA"
    ) from error

from camcore.adapters import paths, tables
from camcore.adapters.files import check_suffix, onnx_ports, opened
from camcore.adapters.options import add_channels, parse_options, parse_output, parse_target
from camcore.card import Card
from camcore.errors import CamcoreError, FileError, InputError, UnknownNameError

if TYPE_CHECKING:
    from camcore.adapters.runner import Explanation, Progress
    from camcore.adapters.sources.built_model import BuiltModel

_LISTED = 5  # best classes of an image that are listed unless --top says otherwise

_STDOUT = Path("-")

_INTERRUPTED = 130  # what shells give for a command that Ctrl-C ended

_out = Console()
_err = Console(stderr=True)


class _Commands(TyperGroup):
    """Turns camcore's own errors into one red line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CamcoreError as error:
            if ctx.params["debug"]:
                raise
            _err.print(f"[red]camcore: {escape(str(error))}[/red]", soft_wrap=True)
            bad_input = isinstance(error, InputError | UnknownNameError | FileError)
            raise typer.Exit(2 if bad_input else 1) from error
        except KeyboardInterrupt:
            _err.print("[red]camcore: stopped by Ctrl-C[/red]")
            raise typer.Exit(_INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A torchvision builder (resnet18), module:function (a function that returns an "
        "nn.Module), or scenes (the demo classifier).",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="DEFAULT, none, one of torchvision's names (IMAGENET1K_V2), or a file with a state "
        "dict (.safetensors, .pt, .pth)."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Image size, 224 or 224x320 (height x width).", show_default="the weights' own, or 224"
    ),
]
ModelFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="An .onnx, .pt or .pt2 file that camcore wrote.")
]


def main() -> None:
    """The entry point of the `camcore` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    app()


@app.callback()
def _camcore(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Turn a vision model into one file that explains itself, and run such files.

    Start with:

    - `camcore export resnet18 --output resnet18.onnx`

    - `camcore run resnet18.onnx dog.jpg --output overlay.png`

    Without a download: `scenes` in place of resnet18, a small classifier of painted shapes.

    Exit codes: 0 done, 1 the model could not be exported or proven, 2 something was wrong with what
    was given, 130 stopped by Ctrl-C.
    """


_METHOD, _TARGET, _MAPS, _FILE = "Method", "Target", "Maps", "File"


@app.command()
def export(
    model: Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The file to write: .onnx, .pt or .pt2.", rich_help_panel=_FILE
        ),
    ],
    weights: Weights = "DEFAULT",
    size: Size = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="A text file with one class name per line.", show_default="the weights' own"
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="`camcore methods` lists them.", rich_help_panel=_METHOD)
    ] = "gradcam",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="A module of the model; `camcore layers` lists them. Repeatable: the maps of "
            "several layers are combined.",
            show_default="the last one on the image's grid",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="An option of the method, as eps=0; `camcore methods` lists them. Repeatable.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many channels scorecam, sscam and iscam mask the image with, those that are "
            "strongest in it: a pass for each.",
            show_default="all of them",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    eigen_smooth: Annotated[
        bool,
        typer.Option(
            "--eigen-smooth",
            help="Less noise: the first principal component of the weighted activations in place "
            "of their sum.",
            rich_help_panel=_METHOD,
        ),
    ] = False,
    aug_smooth: Annotated[
        bool,
        typer.Option(
            "--aug-smooth",
            help="Less noise: the mean over six variants of the image, mirrored, brighter and "
            "darker, at six times the cost.",
            rich_help_panel=_METHOD,
        ),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            help="What is explained, class by class: logit; probability (softmax); rest and finer "
            "(against the other classes); binary (one score, yes or no); value (regression); "
            "segmentation (scores of pixels); or module:function, from the model's output to "
            "scores (B, N).",
            show_default="the method's own, mostly logit",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    explain_output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|INDEX",
            help="The output of the model to explain, where it has several.",
            show_default="the first",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    combine: Annotated[
        Literal["mean", "product"] | None,
        typer.Option(
            help="What the maps of several layers become.",
            show_default="the method's own, mostly mean",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    relu: Annotated[
        bool | None,
        typer.Option(
            "--relu/--no-relu",
            help="Whether what speaks against the class is cut off.",
            show_default="the method's own",
            rich_help_panel=_MAPS,
        ),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize/--no-normalize",
            help="Maps in [0, 1], or as the method gives them.",
            rich_help_panel=_MAPS,
        ),
    ] = True,
    map_size: Annotated[
        Literal["image", "feature"],
        typer.Option(help="Maps of the image's size, or the layer's.", rich_help_panel=_MAPS),
    ] = "image",
    dynamic_size: Annotated[
        bool | None,
        typer.Option(
            "--dynamic-size/--fixed-size",
            help="Whether the file takes images of any height and width.",
            show_default="any size where the model allows it",
            rich_help_panel=_FILE,
        ),
    ] = None,
    stepwise: Annotated[
        bool,
        typer.Option(
            "--stepwise",
            help="The file takes many passes in steps, so that `camcore run` shows how far it is; "
            "for ablationcam, scorecam, rise and their like.",
            rich_help_panel=_FILE,
        ),
    ] = False,
    pixels: Annotated[
        bool,
        typer.Option(
            "--pixels",
            help="The file takes uint8 images (B, H, W, 3) and normalises them itself.",
            rich_help_panel=_FILE,
        ),
    ] = False,
) -> None:
    """Write a model and its maps into one file, and check that file against PyTorch.

    - `camcore export resnet50 --method layercam --layer layer3 --output resnet50.onnx`

    - `camcore export resnet50 --layer layer3 --layer layer4 --pixels -o resnet50.onnx`

    - `camcore export resnet50 --method scorecam --channels 16 -o resnet50.onnx`

    - `camcore export resnet18 --method ablationcam --layer layer3 --stepwise -o resnet18.onnx`

    - `camcore export fcn_resnet50 --target segmentation --layer backbone.layer4 -o fcn.onnx`

    - `camcore export resnet18 --weights mine.safetensors --class-names names.txt -o mine.onnx`

    - `camcore export mymodels:build_net --size 96x128 --fixed-size --output net.pt2`

    A model given as module:function is taken to want ImageNet's mean and standard deviation, and an
    image alone; the Python function camcore.export.explain takes any, and further inputs.
    """
    # What can be checked before torch is imported, and before minutes of work.
    check_suffix(output)
    paths.check_folder(output.parent, f"--output {output}")
    paths.check_targets([("--output", output)], [Path(weights)])
    names = None if class_names is None else _read_lines(class_names)
    height_width = _parse_size(size)
    own_options = add_channels(method, parse_options(method, options or ()), channels)
    with _needs("export"):
        from camcore.adapters.sources.build import build_model
        from camcore.adapters.sources.built_model import with_size
        from camcore.export import explain, save

        chosen = {
            "target": parse_target(target),
            "output": parse_output(explain_output),
            "combine": combine,
            "relu": relu,
        }
    with _err.status(f"building {model}"):
        built = build_model(model, weights)
    spec = built.image if height_width is None else with_size(built.image, height_width)
    with _err.status(f"explaining {built.name} with {method}"):
        explained = explain(
            built.model,
            _example(built, height_width),
            method=method,
            layer=layers or None,
            eigen_smooth=eigen_smooth,
            aug_smooth=aug_smooth,
            stepwise=stepwise,
            normalize=normalize,
            full_size=map_size == "image",
            pixels=pixels,
            model_name=built.name,
            class_names=built.class_names if names is None else names,
            image_spec=spec,
            dynamic_size=dynamic_size,
            # The others are left to the method.
            **{name: value for name, value in chosen.items() if value is not None},
            **own_options,
        )
    with _err.status(f"writing and checking {output}"):
        card = save(explained, output)
    _out.print(
        f"[green]wrote[/green] {escape(str(output))}: {card.method} of {card.model} at "
        f"{escape(card.layer)}{tables.target_suffix(card)}",
        soft_wrap=True,
    )
    for note in card.notes:
        _out.print(escape(f"note: {note}"), soft_wrap=True)


@app.command()
def run(
    file: ModelFile,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", "-c", help="A class to explain, by name or index; repeatable."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            help="List the N best classes, and explain them unless --class names others.",
            min=1,
            show_default="list 5, explain 1",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the overlays go: an image file for one IMAGE, a folder for several. The "
            "explained classes of an image stand side by side.",
        ),
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Where the results go as JSON; - for standard output."),
    ] = None,
    opacity: Annotated[float, typer.Option(help="Of the colours over the image, 0 to 1.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="One of OpenCV's, as jet, viridis, turbo.")] = "jet",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to run.")] = "cpu",
) -> None:
    """Predict and explain images with an exported file. Needs no PyTorch for .onnx.

    - `camcore run resnet18.onnx dog.jpg --top 3 --output overlay.png`

    - `camcore run resnet18.onnx dog.jpg --class boxer --class 242 --json out.json`

    - `camcore run resnet18.onnx a.jpg b.jpg --output overlays/ --json results.json`

    In the JSON, peak is where the map is highest, x and y in the pixels of the image, and null for
    a map that is the same everywhere. score is null, and predictions are none, where the model does
    not score classes as a whole, as in segmentation. output names the model's output that the maps
    explain, null if it is something made of all of them, and target says what of it.
    """
    with _needs("run"):
        from camcore.adapters import images as image_files
        from camcore.adapters import overlay
        from camcore.adapters.runner import class_index, load
    # All that can be checked before anything is computed.
    overlay.colormap_code(colormap)
    overlay.check_opacity(opacity)
    paths.check_images(images)
    pictures = _check_output(output, json_path, file, images)
    runner = load(file, device)
    _check_inputs(file, runner.card)
    if top is not None and top > runner.card.num_classes:
        raise InputError(f"--top {top}, but {file} knows {runner.card.num_classes} classes")
    # By whatever names a class was given, it is explained once.
    named = list(dict.fromkeys(class_index(runner.card, name) for name in classes or ()))
    wanted = named or [-1] * (top or 1)

    results = []
    for number, path in enumerate(images):
        image = image_files.read_image(path)
        try:
            array, placement = image_files.prepare(image, runner.card.image)
            with _shown_progress(path, runner.card) as progress:
                explanation = runner(array, wanted, progress=progress)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        result = _result(path, explanation, placement, runner.card, top or _LISTED)
        if pictures is not None:
            panels = []
            for raw, entry in zip(explanation.saliency_map[0], result["explained"], strict=True):
                saliency_map = placement.map_to_original(_for_show(raw, runner.card))
                panel = overlay.heatmap(image, saliency_map, colormap=colormap, opacity=opacity)
                score = "" if entry["score"] is None else f" {entry['score']:.2f}"
                panels.append(overlay.caption(panel, entry["name"] + score))
            paths.make_folder(pictures[number].parent)
            overlay.write_image(pictures[number], overlay.side_by_side(panels))
            result["overlay"] = str(pictures[number])
        results.append(result)

    record = {
        "file": str(file),
        "output": runner.card.explained,
        "target": tables.target_of(runner.card),
        "images": results,
    }
    text = json.dumps(_finite(record), indent=2, allow_nan=False)
    if json_path == _STDOUT:
        sys.stdout.write(text + "\n")
        return
    if json_path is not None:
        _write_text(json_path, text + "\n")
    for result in results:
        _out.print(tables.predictions_table(result, runner.card))


@app.command()
def inspect(file: ModelFile) -> None:
    """Show what a file says of itself. Needs neither PyTorch nor onnxruntime.

    - `camcore inspect resnet18.onnx`
    """
    with opened(file) as (content, card):
        shown = [tables.card_table(file, card)]
        if file.suffix.lower() == ".onnx":
            shown.append(tables.ports_table(*onnx_ports(content)))
    _out.print(*shown, sep="")


@app.command()
def methods() -> None:
    """List the explanation methods: what they compute, what they cost, where they come from."""
    from camcore.methods import METHODS

    _out.print(tables.methods_list(METHODS.values()))


@app.command()
def layers(
    model: Model,
    weights: Weights = "none",
    size: Size = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List those that cannot be explained as well.")
    ] = False,
) -> None:
    """List the layers of a model that can be explained, and tell which is the default and why.

    - `camcore layers resnet18`

    - `camcore layers vit_b_16 --all`

    - `camcore layers mymodels:build_net --size 96x128`
    """
    with _needs("export"):
        from camcore.adapters.sources.build import build_model
        from camcore.adapters.sources.scenes import SCENES
        from camcore.export import list_layers
    height_width = _parse_size(size)
    built = build_model(model, "DEFAULT" if model == SCENES else weights)
    found = list_layers(built.model, _example(built, height_width))
    _out.print(tables.layers_table(built.name, found, everything=everything, width=_out.width))


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Turns a missing package into the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("camcore"):
            raise
        raise InputError(
            f"this command needs {error.name}, which is not installed: pip install "
            f"'camcore[{extra}]'"
        ) from error


def _parse_size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    parts = size.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--size {size!r}; expected 224, or height x width as in 224x320")
    return int(parts[0]), int(parts[-1])


def _example(built: "BuiltModel", size: tuple[int, int] | None) -> Any:
    """Images to trace the model with, of which only the shape matters.

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

    return torch.zeros(2, built.image.channels, *(size or built.image.crop or (224, 224)))


def _read_lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error


def _finite(value: Any) -> Any:
    """The value with None for each NaN and infinity in it, which JSON knows no words for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_output(
    output: Path | None, json_path: Path | None, file: Path, images: Sequence[Path]
) -> list[Path] | None:
    """The pictures to write, one per image, once it is known that all output can be written."""
    from camcore.adapters.overlay import check_format

    pictures = None if output is None else paths.picture_paths(output, images)
    targets = [("--output", picture) for picture in pictures or ()]
    if pictures:  # they differ in their stem alone
        check_format(pictures[0])
        paths.check_folder(pictures[0].parent, f"--output {output}", make=True)
    if json_path is not None and json_path != _STDOUT:
        paths.check_folder(json_path.parent, f"--json {json_path}")
        targets.append(("--json", json_path))
    paths.check_targets(targets, [file, *images])
    return pictures


@contextmanager
def _shown_progress(image: Path, card: Card) -> "Iterator[Progress | None]":
    """A bar for a file that takes its passes in steps, gone when they are taken."""
    if card.steps is None:
        yield None
        return
    from rich.progress import Progress as Bar

    with Bar(console=_err, transient=True) as bar:
        task = bar.add_task(escape(image.name), total=card.steps)
        yield lambda done, total: bar.update(task, completed=done)


def _check_inputs(file: Path, card: Card) -> None:
    """Raises an `InputError` where an image is not all that a file takes."""
    further = card.inputs[1:-1]
    if further:
        given = ", ".join(f"{name}=..." for name in further)
        raise InputError(
            f"{file} takes {', '.join(further)} beside the image, which the command line cannot "
            f"give. Run it from Python: camcore.adapters.load({str(file)!r})(image, {given})"
        )


def _for_show(raw: Any, card: Card) -> Any:
    """A map (H, W) in [0, 1], also of a file that gives maps as they are."""
    from camcore.scaling import normalize

    return raw if card.options.get("normalize", True) else normalize(raw)


def _result(
    path: Path, explanation: "Explanation[Any]", placement: Any, card: Card, listed: int
) -> dict[str, Any]:
    """What one image gave, as JSON takes it, with so many of its best classes."""
    import numpy as np

    from camcore.adapters.runner import class_scores

    scores = class_scores(card, explanation)

    def named(index: int) -> dict[str, Any]:
        names = card.class_names
        return {
            "class": index,
            "name": names[index] if names else str(index),
            "score": None if scores is None else float(scores[0, index]),
        }

    best: Iterable[Any] = ()
    if scores is not None:
        best = np.argsort(-scores[0], kind="stable")[:listed]
    explained = []
    for index, saliency_map in zip(
        explanation.classes[0], explanation.saliency_map[0], strict=True
    ):
        row, column = np.unravel_index(np.argmax(saliency_map), saliency_map.shape)
        centre = np.array([column + 0.5, row + 0.5])
        x, y = placement.points_to_original(centre, saliency_map.shape)
        # A map that is the same, or not finite, everywhere has no highest point.
        peaked = bool(saliency_map.max() > saliency_map.min())
        peak = {"x": round(float(x), 1), "y": round(float(y), 1)} if peaked else None
        explained.append({**named(int(index)), "peak": peak})
    return {
        "image": str(path),
        "predictions": [named(int(index)) for index in best],
        "explained": explained,
        "overlay": None,
    }


if __name__ == "__main__":
    main()
