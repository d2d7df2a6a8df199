"""`camcore serve`: a file as a static page for browsers, or as a Triton model repository."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from camcore.adapters import paths
from camcore.adapters.cli.arguments import ModelFile
from camcore.adapters.cli.console import out, working
from camcore.adapters.extras import needs
from camcore.adapters.files import read_card
from camcore.errors import InputError

if TYPE_CHECKING:
    from camcore.card import Card

_PAGE, _TRITON = "Page", "Triton"


def serve(
    file: ModelFile,
    web: Annotated[
        Path | None, typer.Option(help="The folder for a page that runs the file in a browser.")
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(help="The folder of a Triton model repository.")
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
    name: Annotated[
        str | None,
        typer.Option(help="Of the model.", show_default="the file's", rich_help_panel=_TRITON),
    ] = None,
    backend: Annotated[
        Literal["onnxruntime", "python"],
        typer.Option(help="What runs the file in Triton.", rich_help_panel=_TRITON),
    ] = "onnxruntime",
    max_batch: Annotated[
        int, typer.Option(min=1, help="Images run together, at most.", rich_help_panel=_TRITON)
    ] = 8,
    delay: Annotated[
        int,
        typer.Option(
            min=0,
            help="Microseconds that a request waits for others, at most.",
            rich_help_panel=_TRITON,
        ),
    ] = 1000,
) -> None:
    """Write what serves a file: a page that runs it in the browser, or Triton's model repository.

    - `camcore serve resnet18.onnx --web page/ --example photos/`

    - `camcore serve resnet18.onnx --triton models/ --max-batch 16`

    The page needs no other server than a static one, as `python -m http.server -d page/`, and sends
    no picture anywhere. Triton's Python backend needs onnxruntime in the server's Python.
    """
    if web is None and triton is None:
        raise InputError("nothing to write: give --web DIR or --triton DIR")
    card = read_card(file)
    if triton is not None:
        paths.check_folder(triton, f"--triton {triton}", make=True)
        with needs("run"):
            from camcore.adapters.serving.triton import write_repository
        model = write_repository(
            file, triton, name=name, backend=backend, max_batch=max_batch, delay=delay
        )
        out.print(f"[green]wrote[/green] {escape(str(model))}: a model for Triton", soft_wrap=True)
        out.print(
            f"serve it: tritonserver --model-repository {escape(str(triton))}", soft_wrap=True
        )
    if web is not None:
        _write_page(file, card, web, examples or (), colormap, opacity, runtime)


def _write_page(
    file: Path,
    card: "Card",
    web: Path,
    examples: Sequence[str],
    colormap: str,
    opacity: float,
    runtime: Path | None,
) -> None:
    with needs("run"):
        from camcore.adapters.serving.web import RUNTIME, write_page
    images = paths.find_images(examples)
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
