"""`camcore run`: predict and explain images with an exported file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from camcore.adapters import paths, tables
from camcore.adapters.cli.arguments import ModelFile
from camcore.adapters.cli.choice import check_choice, explain_chosen
from camcore.adapters.cli.console import err, out
from camcore.adapters.cli.queries import with_queries
from camcore.adapters.cli.record import STDOUT, failed_record, recording
from camcore.adapters.extras import needs
from camcore.card import Card, ImageSpec
from camcore.errors import InputError

if TYPE_CHECKING:
    from camcore.adapters.runner import Explanation, Progress
    from camcore.adapters.stream import Failed, Prepared, Result

_LISTED = 5  # best classes of an image that are listed unless --top says otherwise
_TABLES = 10  # images with a table each; of more, each has a line

SOME_FAILED = 3  # the exit code where some of the images gave nothing


def _colormaps(incomplete: str) -> list[str]:
    """What a shell offers for a colour map that was begun."""
    from camcore.adapters.overlay import COLORMAPS

    return [name for name in COLORMAPS if name.startswith(incomplete.lower())]


def run(
    file: ModelFile,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders, globs ('photos/*.jpg') or lists (.txt, a path a line).",
        ),
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            "-c",
            metavar="NAME|INDEX",
            help="A class to explain, by name or index; repeatable.",
        ),
    ] = None,
    queries: Annotated[
        list[Path] | None,
        typer.Option(
            "--query",
            metavar="FILE",
            help="For a file that compares embeddings: a .npy with a vector a row. All are "
            "explained unless --class or --top says otherwise. Repeatable.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="What a query is called, in their order; repeatable."),
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
        typer.Option(
            "--json",
            help="Where the results go as JSON; a .jsonl has an image a line, written as it is "
            "done; - for standard output.",
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            help="A folder for the maps, a file for each image and class, in the image's pixels."
        ),
    ] = None,
    maps_format: Annotated[
        Literal["npy", "png"],
        typer.Option(help="float32, NaN where the model saw nothing; or 16-bit grey, 0 there."),
    ] = "npy",
    full_size: Annotated[
        bool,
        typer.Option(
            "--full-size",
            help="Neither resize nor crop, for a file that takes images of any size.",
        ),
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, help="Images of one shape that are run together, at most.")
    ] = 8,
    in_boxes: Annotated[
        bool,
        typer.Option(
            "--in-boxes",
            help="Of a detector's file: one overlay, each map stretched in the box of its "
            "detection, and nothing outside of the boxes.",
        ),
    ] = False,
    opacity: Annotated[float, typer.Option(help="Of the colours over the image, 0 to 1.")] = 0.5,
    colormap: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=_colormaps,
            help="One of OpenCV's, as jet, viridis, turbo.",
        ),
    ] = "jet",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to run.")] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="How many threads run the file.", show_default="every core"),
    ] = None,
) -> None:
    """Predict and explain images with an exported file. Needs no PyTorch for .onnx.

    - `camcore run resnet18.onnx dog.jpg --top 3 --output overlay.png`

    - `camcore run resnet18.onnx dog.jpg --class boxer --class 242 --json out.json`

    - `camcore run resnet18.onnx photos/ --output overlays/ --json results.jsonl`

    - `camcore run resnet18.onnx list.txt --maps maps/ --maps-format png`

    - `camcore run clip.onnx dog.jpg --query texts.npy --name "a dog" --name "a cat"`

    An image that cannot be read or run is told of, the others go on, and the exit code is 3.

    In the JSON, peak is where the map is highest, x and y in the pixels of the image, and null for
    a map that is the same everywhere. score is the model's, probability what it stands for: its
    softmax or sigmoid, as the file's card says, or null. score is null, and predictions are none,
    where the model does not score classes as a whole, as in segmentation. output names the model's
    output that the maps explain, null if it is something made of all of them, and target says what
    of it.

    A detector's file explains what it finds, each detection by itself: --class keeps those of a
    label, --top N the first N, and the JSON has their boxes. Where it explains the image as a
    whole, the overlay is one, and the map that the JSON names is the same for all.

    A file made with --boxes finds boxes, which are drawn on the overlays. In the JSON each has a
    score and a box, x1, y1, x2, y2 in the pixels of the image, x2 and y2 exclusive.
    """
    with needs("run"):
        from camcore.adapters import overlay, stream
        from camcore.adapters.results import image_record
        from camcore.adapters.runner import class_index, load
    # All that can be checked before anything is computed.
    overlay.colormap_code(colormap)
    overlay.check_opacity(opacity)
    found = paths.find_images(images)
    pictures, map_files = _check_output(output, json_path, maps, maps_format, file, found)
    runner = load(file, device, threads=threads)
    compares = runner.card.queries is not None
    runner = with_queries(file, runner, queries or (), names or ())
    card = runner.card
    _check_inputs(file, card)
    # By whatever names a class was given, it is explained once.
    named = list(dict.fromkeys(class_index(card, name) for name in classes or ()))
    if compares and not named and top is None and card.takes_ids:
        named = list(range(card.num_classes))
    check_choice(file, card, named, top)
    if in_boxes and not card.is_detector:
        raise InputError(f"--in-boxes is for a detector's file, which {file} is not")
    spec = _whole_images(file, card.image) if full_size else card.image

    def explain(images: Any, progress: "Progress | None") -> "Explanation[Any]":
        return explain_chosen(runner, images, named, top, progress)

    writer = _Writer(card, pictures, map_files, colormap, opacity, in_boxes)
    failed = 0
    with recording(json_path, file, card) as record, _Bar(len(found), card.steps) as bar:
        prepared = stream.prepared_images(found, spec)
        for group, failures in stream.batches(prepared, 1 if card.is_detector else batch):
            with bar.steps(group) as progress:
                results = [*failures, *stream.explained(explain, group, progress)]
            for result in sorted(results, key=lambda result: result.number):
                if isinstance(result, stream.Failed):
                    failed += 1
                    record(failed_record(result.path, result.reason))
                    tell_failure(result)
                    continue
                entry = image_record(
                    result.path, result.explanation, result.placement, card, top or _LISTED
                )
                writer.write(result, entry)
                record(entry)
                if json_path != STDOUT:
                    as_line = len(found) > _TABLES
                    as_table = (
                        tables.detections_table if card.is_detector else tables.predictions_table
                    )
                    shown = (tables.prediction_line if as_line else as_table)(entry, card)
                    out.print(shown, soft_wrap=as_line)
            bar.advance(len(results))
    for note in writer.notes:
        err.print(escape(f"note: {note}"), soft_wrap=True)
    if failed:
        if len(found) > 1:
            err.print(f"camcore: {failed} of {len(found)} images failed", soft_wrap=True)
        raise typer.Exit(SOME_FAILED)


@dataclass
class _Writer:
    """Writes the overlay and the maps of each image, and notes what an overlay does not show."""

    card: Card
    pictures: Sequence[Path] | None
    maps: Sequence[Path] | None
    colormap: str
    opacity: float
    in_boxes: bool
    notes: dict[str, None] = field(default_factory=dict)

    def write(self, result: "Result", entry: dict[str, Any]) -> None:
        """The files of an image, and their names in its record."""
        if self.maps is not None:
            self._write_maps(self.maps[result.number], result, entry)
        if self.pictures is not None:
            self._write_picture(self.pictures[result.number], result, entry)

    def _write_maps(self, path: Path, result: "Result", entry: dict[str, Any]) -> None:
        from camcore.adapters import overlay
        from camcore.adapters.results import for_show, maps_of

        paths.make_folder(path.parent)
        pairs = zip(maps_of(result.explanation), entry["explained"], strict=True)
        for number, (raw, explained) in enumerate(pairs):
            if self.card.shares_map:
                own = path
            elif self.card.is_detector:  # of one class there may be several
                own = paths.of_detection(path, number)
            else:
                own = paths.of_class(path, explained["class"])
            explained["map"] = str(own)
            if self.card.shares_map and number > 0:  # written already
                continue
            # As values the file's own; grey levels have no others than those in [0, 1].
            values = raw if path.suffix == ".npy" else for_show(raw, self.card)
            overlay.write_map(own, result.placement.map_to_original(values))

    def _write_picture(self, path: Path, result: "Result", entry: dict[str, Any]) -> None:
        from camcore.adapters import overlay
        from camcore.adapters.results import picture

        is_one = self.in_boxes or self.card.shares_map
        most = None if is_one else overlay.most_panels(result.image)
        shown = entry["explained"][:most]
        if len(shown) < len(entry["explained"]):
            count = f"{len(shown)} of the {len(entry['explained'])} explained classes"
            self.notes[f"overlays show the first {count}; --maps writes all, each to a file"] = None
        drawn = picture(
            result.image,
            result.explanation,
            result.placement,
            self.card,
            shown,
            colormap=self.colormap,
            opacity=self.opacity,
            in_boxes=self.in_boxes,
        )
        paths.make_folder(path.parent)
        overlay.write_image(path, drawn)
        entry["overlay"] = str(path)


def _check_output(
    output: Path | None,
    json_path: Path | None,
    maps: Path | None,
    maps_format: str,
    file: Path,
    images: Sequence[Path],
) -> tuple[list[Path] | None, list[Path] | None]:
    """The pictures and the maps to write, one per image, once it is known that all output can be
    written.
    """
    from camcore.adapters.overlay import check_format

    pictures = None if output is None else paths.picture_paths(output, images)
    targets = [("--output", picture) for picture in pictures or ()]
    if pictures:  # they differ in their stem alone
        check_format(pictures[0])
        paths.check_folder(pictures[0].parent, f"--output {output}", make=True)
    if json_path is not None and json_path != STDOUT:
        paths.check_folder(json_path.parent, f"--json {json_path}")
        targets.append(("--json", json_path))
    if maps is not None:
        paths.check_folder(maps, f"--maps {maps}", make=True)
    paths.check_targets(targets, [file, *images])
    return pictures, None if maps is None else paths.paths_in(maps, images, f".{maps_format}")


class _Bar:
    """How many images are done; and, of a file that takes its passes in steps, how many of those.

    Gone when all is done, and not there where nobody would see it.
    """

    def __init__(self, images: int, steps: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        self._bar = Bar(
            *columns,
            TimeRemainingColumn(),
            console=err,
            transient=True,
            # What is printed meanwhile goes to standard output all the same, if that is a file.
            redirect_stdout=out.is_terminal,
            disable=not err.is_terminal or (images < 2 and steps is None),
        )
        self._steps = steps
        self._images = self._bar.add_task("images", total=images, visible=images > 1)

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, images: int) -> None:
        self._bar.advance(self._images, images)

    @contextmanager
    def steps(self, batch: "Sequence[Prepared]") -> "Iterator[Progress | None]":
        """What is told of the steps of a batch."""
        if self._steps is None or not batch:
            yield None
            return
        more = f" and {len(batch) - 1} more" if len(batch) > 1 else ""
        task = self._bar.add_task(f"{escape(batch[0].path.name)}{more}", total=self._steps)
        yield lambda done, total: self._bar.update(task, completed=done)
        self._bar.remove_task(task)


def tell_failure(failed: "Failed") -> None:
    """Says why an image failed, with its name."""
    name, told = str(failed.path), failed.reason
    told = told if told.startswith(name) else f"{name}: {told}"
    err.print(f"[red]camcore: {escape(told)}[/red]", soft_wrap=True)


def _whole_images(file: Path, spec: ImageSpec) -> ImageSpec:
    """The spec without resizing and cropping.

    Raises:
        InputError: the file takes images of one size.
    """
    if not spec.is_any_size:
        size = " x ".join(str(length) for length in spec.space.values())
        raise InputError(f"--full-size: {file} takes images of {size} alone")
    return replace(spec, resize=None, crop=None)


def _check_inputs(file: Path, card: Card) -> None:
    """Raises an `InputError` where an image is not all that a file takes."""
    further = card.further_inputs
    if further:
        given = ", ".join(f"{name}=..." for name in further)
        raise InputError(
            f"{file} takes {', '.join(further)} beside the image, which the command line cannot "
            f"give. Run it from Python: camcore.adapters.load({str(file)!r})(image, {given})"
        )
