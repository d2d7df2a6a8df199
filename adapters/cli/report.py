"""`camcore report`: why a file said this of an image and not that, in one page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from camcore.adapters import paths
from camcore.adapters.cli.arguments import ModelFile
from camcore.adapters.cli.console import out
from camcore.adapters.extras import needs
from camcore.adapters.files import writing


def report(
    file: ModelFile,
    photo: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    expected: Annotated[
        str,
        typer.Option(metavar="NAME|INDEX", help="The class that the image is of."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page.", show_default="the image's name, .html"),
    ] = None,
) -> None:
    """Show why a file said this of an image and not that: one page that opens offline.

    - `camcore report resnet50.onnx cat.jpg --expected tabby`

    It holds the maps of the expected class and of the best of the others, where either is above the
    other, the scores, and what made the file. A file of finercam contrasts classes in its maps.
    """
    page = output or Path(photo.with_suffix(".html").name)
    paths.check_images([photo])
    paths.check_folder(page.parent, f"--output {page}")
    paths.check_targets([("--output", page)], [file, photo])
    with needs("run"):
        from camcore.adapters.report import check_report, compare_classes, report_page
        from camcore.adapters.runner import class_index, load
    runner = load(file)
    check_report(runner.card)
    found = compare_classes(runner, photo, class_index(runner.card, expected))
    with writing(page):
        page.write_text(report_page(file, photo, runner.card, found), encoding="utf-8")
    out.print(f"[green]wrote[/green] {escape(str(page))}", soft_wrap=True)
