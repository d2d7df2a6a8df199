"""`camcore run`: predict and explain images with an exported file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from camcore.adapters import paths, tables
from camcore.adapters.cli.arguments import BatchSize, Device, ModelFile, OnRay, Threads
from camcore.adapters.cli.console import err, out
from camcore.adapters.extras import needs
from camcore.adapters.running.record import STDOUT
from camcore.adapters.running.results import Results
from camcore.card import Card

if TYPE_CHECKING:
    from camcore.adapters.runner import Progress
    from camcore.adapters.running.entries import Entry, Steps, Task
    from camcore.adapters.running.job import Job
    from camcore.adapters.running.kinds import Kind
    from camcore.adapters.running.request import Request
    from camcore.adapters.stream import Failed, Prepared

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
    parquet: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the results go as Parquet: a folder of files, each written when full.",
        ),
    ] = None,
    parquet_maps: Annotated[
        Literal["uint8", "float16"] | None,
        typer.Option(
            help="Keep the maps in there, too, of the file's own size: uint8 of [0, 1], or float16."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where a run was that was interrupted, by its --json FILE.jsonl or its "
            "--parquet; images that failed are tried again.",
        ),
    ] = False,
    ray: OnRay = False,
    full_size: Annotated[
        bool,
        typer.Option(
            "--full-size",
            help="Neither resize nor crop, for a file that takes images of any size.",
        ),
    ] = False,
    batch: BatchSize = 8,
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
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Predict and explain images with an exported file. Needs no PyTorch for .onnx.

    - `camcore run resnet18.onnx dog.jpg --top 3 --output overlay.png`

    - `camcore run resnet18.onnx dog.jpg --class boxer --class 242 --json out.json`

    - `camcore run resnet18.onnx photos/ --output overlays/ --json results.jsonl`

    - `camcore run resnet18.onnx list.txt --maps maps/ --maps-format png`

    - `camcore run resnet18.onnx 'photos/**/*.jpg' --parquet results/ --resume --ray`

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

    The concepts of a file made with --concepts stand beside the classes, each with the class that
    it speaks for most, where the classifier is linear.
    """
    with needs("run"):
        from camcore.adapters.files import read_card
        from camcore.adapters.running import entries as road
        from camcore.adapters.running.job import open_job
        from camcore.adapters.running.kinds import (
            check_options,
            check_takes_images,
            kind_for,
            kind_of,
        )
        from camcore.adapters.running.request import Request
    request = Request(
        file,
        tuple(classes or ()),
        top,
        full_size,
        batch,
        device,
        threads,
        parquet_maps,
        colormap,
        opacity,
        tuple(queries or ()),
        tuple(names or ()),
        in_boxes,
    )
    # All that can be checked before anything is computed.
    found = paths.find_placed_images(images)
    kind = kind_of([each.path for each in found])
    if kind != "images":
        kind = kind_for(kind, read_card(file).image, [each.path for each in found])
    asked = {"--parquet": parquet, "--resume": resume, "--ray": ray, "--full-size": full_size}
    asked |= {"--maps": maps} if kind == "video" else {}
    check_options(kind, [option for option, value in asked.items() if value])
    results = Results(json_path, parquet)
    with needs("parquet"):
        results.check(resume=resume, maps=parquet_maps)
    pictures, map_files = _check_output(kind, output, results, maps, maps_format, file, found)
    job = open_job(request)
    if kind == "images":
        check_takes_images(job.card.image, found[0].path)
    done = results.done(job) if resume else Counter[str]()
    tasks = [
        road.Task(each.path, picture, map_file)
        for each, picture, map_file in zip(found, pictures, map_files, strict=True)
        if not _taken(done, str(each.path))
    ]
    if len(tasks) < len(found):
        told = f"going on behind {len(found) - len(tasks)} images of {json_path or parquet}"
        err.print(escape(told), soft_wrap=True)
    failed = 0
    notes: dict[str, None] = {}
    with results.opened(job, append=resume) as record, _Bar(len(tasks), job.card.steps) as bar:
        for entry in _ray_entries(request, tasks) if ray else _entries(kind, job, tasks, bar.steps):
            record(entry)
            bar.advance(1)
            if entry.failed is not None:
                failed += 1
                tell_failure(entry.failed)
            elif json_path != STDOUT:
                _show(entry.record, job.card, as_line=kind == "video" or len(found) > _TABLES)
            notes |= dict.fromkeys(filter(None, [entry.note]))
    for note in notes:
        err.print(escape(f"note: {note}"), soft_wrap=True)
    if failed:
        if len(tasks) > 1:
            err.print(f"camcore: {failed} of {len(tasks)} images failed", soft_wrap=True)
        raise typer.Exit(SOME_FAILED)


def _entries(
    kind: "Kind", job: "Job", tasks: "Sequence[Task]", steps: "Steps"
) -> "Iterator[Entry]":
    """The road of what is run, on this machine."""
    from camcore.adapters.running.clip_entries import clip_entries
    from camcore.adapters.running.entries import entries
    from camcore.adapters.running.video_entries import video_entries
    from camcore.adapters.running.volume_entries import check_takes_volumes, volume_entries

    if kind == "video":
        (video,) = tasks
        return video_entries(job, video.path, video.picture, steps)
    if kind == "volumes":
        check_takes_volumes(job)
        return volume_entries(job, tasks)
    if kind == "clips":
        return clip_entries(job, tasks)
    return entries(job, tasks, steps)


def _taken(done: Counter[str], image: str) -> bool:
    """Whether an image is done; one that is given twice has to be done twice."""
    done[image] -= 1
    return done[image] >= 0


def _ray_entries(request: "Request", tasks: "Sequence[Task]") -> "Iterator[Entry]":
    with needs("ray"):
        import ray  # noqa: F401  # known to be there

        from camcore.adapters.serving.ray import ray_entries
    return ray_entries(request, tasks)


def _show(record: dict[str, Any], card: Card, *, as_line: bool) -> None:
    """Prints what an image gave."""
    as_table = tables.detections_table if card.is_detector else tables.predictions_table
    out.print((tables.prediction_line if as_line else as_table)(record, card), soft_wrap=as_line)


def _check_output(
    kind: "Kind",
    output: Path | None,
    results: Results,
    maps: Path | None,
    maps_format: str,
    file: Path,
    images: Sequence[paths.Found],
) -> tuple[Sequence[Path | None], Sequence[Path | None]]:
    """The pictures and the maps to write, one per image, once it is known that all output can be
    written.
    """
    from camcore.adapters.overlay import check_format
    from camcore.adapters.running.video import check_video_format, is_video

    # Of scan.nii.gz the name is scan.
    names = [
        each.below.with_suffix("") if each.below.suffix == ".gz" else each.below for each in images
    ]
    pictures = [] if output is None else paths.picture_paths(output, names)
    targets = [("--output", picture) for picture in pictures]
    if output is not None:
        # They differ in their stem alone.
        as_video = kind == "video" or (kind == "clips" and is_video(pictures[0]))
        (check_video_format if as_video else check_format)(pictures[0])
        folder = output.parent if pictures == [output] else output
        paths.check_folder(folder, f"--output {output}", make=True)
    if maps is not None:
        paths.check_folder(maps, f"--maps {maps}", make=True)
    paths.check_targets([*targets, *results.targets()], [file, *(each.path for each in images)])
    nowhere = [None] * len(images)
    map_files = nowhere if maps is None else paths.paths_in(maps, names, f".{maps_format}")
    return pictures or nowhere, map_files


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
