"""`camcore evaluate`: how well a file's maps and boxes find what people have marked."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from camcore.adapters import paths
from camcore.adapters.cli.arguments import (
    AnnotationsFile,
    BatchSize,
    Device,
    ImageFolder,
    ModelFile,
    OnRay,
    Threads,
)
from camcore.adapters.cli.console import counting, err, out
from camcore.adapters.cli.run import SOME_FAILED, tell_failure
from camcore.adapters.evaluation.summary import figure_rows
from camcore.adapters.extras import needs
from camcore.adapters.files import writing
from camcore.card import Card
from camcore.errors import InputError

if TYPE_CHECKING:
    from camcore.adapters.evaluation.annotations import AnnotatedImage, Annotations
    from camcore.adapters.evaluation.evaluate import Measure


def evaluate(
    file: ModelFile,
    images: ImageFolder,
    annotations: AnnotationsFile = None,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness",
            help="Measure how much the prediction hangs on what the map of the best class shows; "
            "wants no annotations, and takes some sixty passes of the model for an image.",
        ),
    ] = False,
    above: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="Predict boxes of the classes that are at least so probable, 0 to 1; 0 for all.",
        ),
    ] = 0.0,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Where the figures and curves go as JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Where MaxBoxAcc's curves go as a picture."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Where what was predicted goes, an image a line, as it is done. An evaluation "
            "that was interrupted goes on from there.",
        ),
    ] = None,
    batch: BatchSize = 8,
    device: Device = "cpu",
    threads: Threads = None,
    ray: OnRay = False,
) -> None:
    """Evaluate a file's maps and boxes on images with annotations. Needs no PyTorch for .onnx.

    - `camcore evaluate resnet50.onnx --images val2017 --annotations instances_val2017.json`

    - `camcore evaluate voc.onnx --images JPEGImages --annotations Annotations --above 0.1`

    - `camcore evaluate resnet50.onnx --images val --annotations val.json --predictions out.jsonl`

    - `camcore evaluate resnet50.onnx --images photos --faithfulness --ray`

    Of every class that is in an image, its map is compared with its boxes: the pointing game, with
    and without a tolerance of 15 pixels, and MaxBoxAcc and MaxBoxAccV2. A file that finds boxes
    (exported with --boxes) is evaluated as a detector, too: COCO's mAP. Classes and categories are
    matched by their names.

    Of a detector's file each object that it finds, with an IoU of at least 0.5, is compared with
    the map of that detection; and its boxes give the mAP.

    With --faithfulness: insertion and deletion, average drop, increase in confidence, ADCC, ROAD.

    An image that cannot be read or run is told of and left out, and the exit code is 3.
    """
    with needs("evaluate"):
        import faster_coco_eval  # noqa: F401  # known to be there before the images are run

        from camcore.adapters.evaluation import record
        from camcore.adapters.evaluation.evaluate import (
            Measure,
            Told,
            evaluated,
            figures,
            keep,
            open_measure,
        )
        from camcore.adapters.evaluation.plot import write_curves
    given = {"--json": json_path, "--plot": plot, "--predictions": predictions}
    targets = [(option, path) for option, path in given.items() if path is not None]
    for option, path in targets:
        paths.check_folder(path.parent, f"{option} {path}")
    paths.check_targets(targets, [file, *([annotations] if annotations else [])])
    paths.check_folder(images, f"--images {images}")
    if plot is not None and annotations is None:
        raise InputError("--plot shows how well maps find objects: it wants --annotations")
    measure = Measure(file, annotations is not None, faithfulness, above, batch, device, threads)
    runner, predict = open_measure(measure)
    finds = runner.card.is_detector
    best_alone = runner.card.class_ids == "best" and not finds
    if plot is not None and best_alone:
        raise InputError(
            "--plot shows how well maps find objects: it wants a file that is told its classes, or "
            "explains all of them"
        )
    stated = stated_annotations(annotations, images, runner.card)
    with_boxes = annotations is not None and (finds or runner.card.boxes is not None)
    if annotations is not None and not with_boxes:
        out.print("the file finds no boxes, so there is no mAP; export it with --boxes")
    if annotations is not None and best_alone:
        out.print("the file explains the best classes alone, so that its boxes alone are evaluated")
    options = {"above": above, "faithfulness": faithfulness}
    with _record(predictions) as path:
        done = record.done_images(path, record.heading(file, annotations, options))
        if done:
            out.print(f"going on behind {len(done)} images of {escape(str(path))}", soft_wrap=True)
        left = [image for image in stated.images if image.name not in done]
        found = _by_ray(measure, left) if ray else evaluated(runner, left, predict, measure.batch)
        with counting("images", len(left)) as advance:
            failures = keep(found, path, Told(advance, tell_failure))
        with counting("figures", 1):
            measured = figures(stated, path, with_boxes=with_boxes)
    card = runner.card
    measured = {"file": str(file), "method": card.method, "layer": card.layer} | measured
    table = Table("figure", Column("value", justify="right"), "what it tells")
    for row in figure_rows(measured):
        table.add_row(*row)
    out.print(table)
    told = f"{measured['images']} images"
    if measured["localisation"]["objects"]:
        what = "objects found in them" if finds else "maps judged, one of each class in each image"
        told += f", {measured['localisation']['objects']} {what}"
    out.print(told, highlight=False)
    if json_path is not None:
        with writing(json_path):
            text = json.dumps(measured, indent=2, allow_nan=False) + "\n"
            json_path.write_text(text, encoding="utf-8")
    curves = measured["localisation"]["curves"]
    if plot is not None and curves is None:
        out.print("no object was there to be found, so that there are no curves to plot")
    elif plot is not None:
        write_curves(plot, curves)
    if failures:
        err.print(
            f"[red]camcore: {failures} of {len(stated.images)} images were left out[/red]",
            soft_wrap=True,
        )
        raise typer.Exit(SOME_FAILED)


def _by_ray(
    measure: "Measure", images: "Sequence[AnnotatedImage]"
) -> Iterator[tuple[Path, dict[str, Any]]]:
    with needs("ray"):
        import ray  # noqa: F401  # known to be there

        from camcore.adapters.serving.ray_evaluate import ray_evaluated
    return ray_evaluated(measure, images)


def stated_annotations(path: Path | None, folder: Path, card: Card) -> "Annotations":
    """What is stated of the images in a folder, or all of its images of which nothing is."""
    from camcore.adapters.evaluation.annotations import (
        Annotations,
        by_class,
        read_annotations,
        without_annotations,
    )

    if path is None:
        return Annotations(without_annotations(paths.find_images([str(folder)])), ())
    stated, unknown = by_class(read_annotations(path, folder), card)
    if unknown:
        named = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        out.print(
            f"[yellow]left out[/yellow]: {len(unknown)} categories that are no class of the file "
            f"({escape(named)})",
            soft_wrap=True,
        )
    return stated


@contextmanager
def _record(path: Path | None) -> Iterator[Path]:
    """Where the record goes: to a file that stays, or to one for the time being."""
    if path is not None:
        yield path
        return
    with TemporaryDirectory(prefix="camcore-") as folder:
        yield Path(folder) / "predictions.jsonl"
