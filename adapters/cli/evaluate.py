"""`camcore evaluate`: how well a file's maps and boxes find what people have marked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from camcore.adapters import paths
from camcore.adapters.cli.arguments import AnnotationsFile, ImageFolder, ModelFile
from camcore.adapters.cli.console import counting, err, out
from camcore.adapters.cli.run import SOME_FAILED, tell_failure
from camcore.adapters.evaluation.summary import figure_rows
from camcore.adapters.extras import needs
from camcore.adapters.files import writing
from camcore.card import Card
from camcore.errors import InputError

if TYPE_CHECKING:
    from camcore.adapters.evaluation.annotations import Annotations


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
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Where what was predicted goes, an image a line, as it is done. An evaluation "
            "that was interrupted goes on from there.",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Images of one shape that are run together, at most.")
    ] = 8,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to run.")] = "cpu",
) -> None:
    """Evaluate a file's maps and boxes on images with annotations. Needs no PyTorch for .onnx.

    - `camcore evaluate resnet50.onnx --images val2017 --annotations instances_val2017.json`

    - `camcore evaluate voc.onnx --images JPEGImages --annotations Annotations --above 0.1`

    - `camcore evaluate resnet50.onnx --images val --annotations val.json --predictions out.jsonl`

    - `camcore evaluate resnet50.onnx --images photos --faithfulness`

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
            Told,
            evaluate_images,
            figures,
            judging,
            predicting,
        )
        from camcore.adapters.evaluation.predict import check_file
        from camcore.adapters.runner import load
    for option, path in (("--json", json_path), ("--predictions", predictions)):
        if path is not None:
            paths.check_folder(path.parent, f"{option} {path}")
            paths.check_targets([(option, path)], [file, *([annotations] if annotations else [])])
    paths.check_folder(images, f"--images {images}")
    runner = load(file, device)
    check_file(runner.card, above)
    stated = stated_annotations(annotations, images, runner.card)
    predict = None if annotations is None else predicting(runner, above)
    finds = runner.card.is_detector
    with_boxes = annotations is not None and (finds or runner.card.boxes is not None)
    if annotations is not None and not with_boxes:
        out.print("the file finds no boxes, so there is no mAP; export it with --boxes")
    if faithfulness:
        predict = judging(file, runner, predict)
    elif predict is None:
        raise InputError("nothing to measure: give --annotations, or --faithfulness, or both")
    options = {"above": above, "faithfulness": faithfulness}
    with _record(predictions) as path:
        done = record.done_images(path, record.heading(file, annotations, options))
        if done:
            out.print(f"going on behind {len(done)} images of {escape(str(path))}", soft_wrap=True)
        with counting("images", len(stated.images)) as advance:
            failures = evaluate_images(
                runner,
                stated.images,
                path,
                done,
                predict,
                batch=1 if finds else batch,
                told=Told(advance, tell_failure),
            )
        with counting("figures", 1):
            found = figures(stated, path, with_boxes=with_boxes)
    found = {"file": str(file), "method": runner.card.method, "layer": runner.card.layer} | found
    table = Table("figure", Column("value", justify="right"), "what it tells")
    for row in figure_rows(found):
        table.add_row(*row)
    out.print(table)
    told = f"{found['images']} images"
    if annotations is not None:
        what = "objects found" if finds else "classes"
        told += f", {found['localisation']['objects']} {what} in them"
    out.print(told, highlight=False)
    if json_path is not None:
        with writing(json_path):
            text = json.dumps(found, indent=2, allow_nan=False) + "\n"
            json_path.write_text(text, encoding="utf-8")
    if failures:
        err.print(
            f"[red]camcore: {failures} of {len(stated.images)} images were left out[/red]",
            soft_wrap=True,
        )
        raise typer.Exit(SOME_FAILED)


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
