"""`camcore compare`: all methods of one model beside each other, in one page."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from camcore.adapters import paths
from camcore.adapters.cli.arguments import (
    AnnotationsFile,
    ClassNames,
    ImageFolder,
    Model,
    Size,
    Weights,
    example,
    own_names,
    parse_size,
    read_names,
)
from camcore.adapters.cli.console import counting, err, out, working
from camcore.adapters.cli.evaluate import stated_annotations
from camcore.adapters.cli.preparation import (
    Colour,
    Crop,
    Interpolation,
    Mean,
    Resize,
    Std,
    as_asked,
    preparation_fields,
    tell_assumptions,
)
from camcore.adapters.evaluation.summary import FIGURES
from camcore.adapters.extras import needs
from camcore.adapters.files import writing
from camcore.errors import InputError
from camcore.methods import METHODS, get_method

if TYPE_CHECKING:
    from camcore.adapters.evaluation.compare import Compared

_SHOWN = 4  # images in the page

# The figures that a terminal has room for.
_SHORT = [
    ("localisation", "pointing_game"),
    ("localisation", "max_box_acc"),
    ("faithfulness", "insertion"),
    ("faithfulness", "deletion"),
    ("faithfulness", "road"),
]


def compare(
    model: Model,
    images: ImageFolder,
    annotations: AnnotationsFile = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The page to write, .html; or its table alone, .md."),
    ] = Path("report.html"),
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", metavar="NAME", help="One to compare; repeatable.", show_default="all"
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="The layer of all methods that take one.", show_default="each method's own"
        ),
    ] = None,
    weights: Weights = "DEFAULT",
    size: Size = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    colour: Colour = None,
    probabilities: Annotated[
        Literal["softmax", "sigmoid"],
        typer.Option(help="What makes probabilities of scores; sigmoid of several labels."),
    ] = "softmax",
    boxes: Annotated[
        int, typer.Option(metavar="M", min=1, help="Boxes that each file finds on a map.")
    ] = 5,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness/--no-faithfulness",
            help="Whether to measure how much the prediction hangs on the maps.",
        ),
    ] = True,
    limit: Annotated[int, typer.Option(min=1, help="Images of the folder, at most.")] = 50,
    minutes: Annotated[
        float,
        typer.Option(
            min=0,
            help="Of each method; behind them no further image is begun, and the table says how "
            "many it was.",
        ),
    ] = 1.0,
    files: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the methods' files stay. What is there already is taken as it is, so a "
            "comparison that was stopped goes on.",
        ),
    ] = None,
) -> None:
    """Compare the methods of a model: their costs and figures in one table, and their maps.

    - `camcore compare resnet50 --images photos -o report.html`

    - `camcore compare resnet50 --images val --annotations val.json --method gradcam --method fem`

    - `camcore compare scenes --images scenes/images --annotations scenes/instances.json`

    Each method is exported, proven and evaluated as a file, as camcore evaluate does it. The page
    opens without a server. A method that the model has no file for is left out, with the reason.
    """
    paths.check_folder(output.parent, f"--output {output}")
    paths.check_targets([("--output", output)], [Path(weights)])
    paths.check_folder(images, f"--images {images}")
    if files is not None:
        paths.check_folder(files, f"--files {files}", make=True)
    chosen = [get_method(name).name for name in methods or METHODS]
    if annotations is None and not faithfulness:
        raise InputError("nothing to measure: give --annotations, or leave --no-faithfulness out")
    height_width = parse_size(size)
    names = None if class_names is None else read_names(class_names)
    fields = preparation_fields(
        mean=mean, std=std, resize=resize, crop=crop, interpolation=interpolation, colour=colour
    )
    with needs("export"):
        from camcore.adapters.sources.build import build_model
        from camcore.export import explain, save
        from camcore.export.families import FAMILIES
    with needs("evaluate"):
        import faster_coco_eval  # noqa: F401

        from camcore.adapters.evaluation.compare import Compared, LeftOut, readable
        from camcore.adapters.evaluation.compare import compare as compare_methods
        from camcore.adapters.evaluation.page import html_page, markdown_table
    with working(f"building {model}"):
        built = build_model(model, weights)
    spec = as_asked(built.image, height_width, fields)
    tell_assumptions(spec)
    inputs = example(replace(built, image=spec), height_width)
    names = names or own_names(built, inputs)

    def explained(method: str, **options: Any) -> Any:
        return explain(
            built.model,
            inputs,
            method=method,
            layer=layer if FAMILIES[METHODS[method].needs].takes_layers else None,
            model_name=built.name,
            class_names=names,
            image_spec=spec,
            probabilities=probabilities,
            **options,
        )

    def write(method: str, path: Path) -> None:
        save(explained(method, boxes=boxes, box_confidence=probabilities), path)

    card = explained("activation").card
    stated = stated_annotations(annotations, images, card)
    stated = replace(stated, images=stated.images[:limit])
    shown = readable(stated.images, _SHOWN)
    if not shown:
        raise InputError(f"none of the images of {images} can be read")
    rows: list[Compared | LeftOut] = []
    began = time.monotonic()
    with _folder(files) as folder, counting("methods", len(chosen)) as step:
        for row in compare_methods(
            chosen,
            write,
            folder,
            stated,
            shown=shown,
            seconds=60 * minutes,
            faithful=faithfulness,
        ):
            rows.append(row)
            # Again behind each of them: all may take an hour.
            if output.suffix == ".md":
                text = markdown_table(rows)
            else:
                text = html_page(f"camcore: {built.name}", rows, shown)
            with writing(output):
                output.write_text(text, encoding="utf-8")
            step(1)
            err.print(
                f"{row.method}: {len(rows)} of {len(chosen)}, {time.monotonic() - began:.0f} s"
            )
    out.print(_short_table([row for row in rows if isinstance(row, Compared)]))
    for row in rows:
        if isinstance(row, LeftOut):
            out.print(escape(f"left out: {row.method}, {row.reason}"), soft_wrap=True)
    out.print(f"[green]wrote[/green] {escape(str(output))}", soft_wrap=True)


@contextmanager
def _folder(files: Path | None) -> Iterator[Path]:
    """Where the methods' files go: into a folder that stays, or into one for the time being."""
    if files is not None:
        paths.make_folder(files)
        yield files
        return
    with TemporaryDirectory(prefix="camcore-") as folder:
        yield Path(folder)


def _short_table(rows: "Sequence[Compared]") -> Table:
    """What has room in a terminal."""
    heads = ("ms", "MB", *(FIGURES[key][0] for key in _SHORT))
    table = Table("method", *(Column(head, justify="right") for head in heads))
    for row in rows:
        values = ((row.found.get(part) or {}).get(name) for part, name in _SHORT)
        figures = ("" if value is None else f"{value:.1%}" for value in values)
        table.add_row(row.method, f"{row.milliseconds:.1f}", f"{row.megabytes:.2f}", *figures)
    return table
