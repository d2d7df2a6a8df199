"""`camcore serve`: a file as a static page for browsers, or as a Triton model repository."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from camcore.adapters import paths
from camcore.adapters.cli.arguments import ModelFile
from camcore.adapters.cli.console import out, working
from camcore.adapters.cli.extras import needs
from camcore.adapters.files import read_card
from camcore.errors import InputError

_PAGE = "Page"


def serve(
    file: ModelFile,
    web: Annotated[
        Path | None, typer.Option(help="The folder for a page that runs the file in a browser.")
    ] = None,
    examples: Annotated[
        list[str] | None,
        typer.Option(
            "--example",
            metavar="IMAGE",
            help="An image, or a folder of some, to try the page with; repeatable.",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    colormap: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="One of OpenCV's, as jet, viridis, turbo.",
            rich_help_panel=_PAGE,
        ),
    ] = "jet",
    opacity: Annotated[
        float,
        typer.Option(help="Of the colours at first, 0 to 1.", rich_help_panel=_PAGE),
    ] = 0.5,
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The dist folder of onnxruntime-web.",
            show_default="what npm fetches",
            rich_help_panel=_PAGE,
        ),
    ] = None,
) -> None:
    """Write what serves a file: a page that runs it in the browser, or Triton's model repository.

    - `camcore serve resnet18.onnx --web page/ --example photos/`

    The page needs no other server than a static one, as `python -m http.server -d page/`, and sends
    no picture anywhere.
    """
    if web is None:
        raise InputError("nothing to write: give --web DIR")
    with needs("run"):
        from camcore.adapters.serving.web import RUNTIME, write_page
    card = read_card(file)
    images = paths.find_images(examples or ())
    paths.check_folder(web, f"--web {web}", make=True)
    with working(f"fetching {RUNTIME}"):
        write_page(
            file,
            card,
            web,
            examples=images,
            colormap=colormap,
            opacity=opacity,
            runtime=runtime,
        )
    out.print(f"[green]wrote[/green] {escape(str(web))}: a page for {escape(str(file))}")
    out.print(f"see it: python -m http.server -d {escape(str(web))} 8000", soft_wrap=True)
