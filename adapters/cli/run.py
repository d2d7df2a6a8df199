"""`camcore run`: predict and explain images with an exported file."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from camcore.adapters import paths, tables
from camcore.adapters.cli.arguments import ModelFile
from camcore.adapters.cli.choice import check_choice, explain_chosen
from camcore.adapters.cli.console import err, out
from camcore.adapters.cli.extras import needs
from camcore.adapters.cli.record import image_record, record_json
from camcore.card import Card
from camcore.errors import FileError, InputError

if TYPE_CHECKING:
    from camcore.adapters.runner import Progress

_LISTED = 5  # best classes of an image that are listed unless --top says otherwise

_STDOUT = Path("-")


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

    A file made with --boxes finds boxes, which are drawn on the overlays. In the JSON each has a
    score and a box, x1, y1, x2, y2 in the pixels of the image, x2 and y2 exclusive.
    """
    with needs("run"):
        import numpy as np

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
    # By whatever names a class was given, it is explained once.
    named = list(dict.fromkeys(class_index(runner.card, name) for name in classes or ()))
    check_choice(file, runner.card, named, top)

    results = []
    for number, path in enumerate(images):
        image = image_files.read_image(path)
        try:
            array, placement = image_files.prepare(image, runner.card.image)
            with _shown_progress(path, runner.card) as progress:
                explanation = explain_chosen(runner, array, named, top or 1, progress)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        result = image_record(path, explanation, placement, runner.card, top or _LISTED)
        if pictures is not None:
            panels = []
            for raw, entry in zip(explanation.saliency_map[0], result["explained"], strict=True):
                saliency_map = placement.map_to_original(_for_show(raw, runner.card))
                boxes = np.array([box["box"] for box in entry.get("boxes", ())])
                panel = overlay.heatmap(
                    image, saliency_map, colormap=colormap, opacity=opacity, boxes=boxes
                )
                score = "" if entry["score"] is None else f" {entry['score']:.2f}"
                panels.append(overlay.caption(panel, entry["name"] + score))
            paths.make_folder(pictures[number].parent)
            overlay.write_image(pictures[number], overlay.side_by_side(panels))
            result["overlay"] = str(pictures[number])
        results.append(result)

    text = record_json(file, runner.card, results)
    if json_path == _STDOUT:
        sys.stdout.write(text + "\n")
        return
    if json_path is not None:
        _write_text(json_path, text + "\n")
    for result in results:
        out.print(tables.predictions_table(result, runner.card))


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error


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

    with Bar(console=err, transient=True) as bar:
        task = bar.add_task(escape(image.name), total=card.steps)
        yield lambda done, total: bar.update(task, completed=done)


def _check_inputs(file: Path, card: Card) -> None:
    """Raises an `InputError` where an image is not all that a file takes."""
    further = card.further_inputs
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
