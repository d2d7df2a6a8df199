"""`camcore convert`: an exported file in half precision or in int8."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from camcore.adapters import paths
from camcore.adapters.cli.arguments import ModelFile
from camcore.adapters.cli.console import out, working
from camcore.adapters.extras import needs
from camcore.errors import InputError

_MOST = 200  # images; more tell nothing new


def convert(
    file: ModelFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .onnx file to write.")
    ],
    half: Annotated[
        bool, typer.Option("--half", help="float16: half the size. What leaves its range is kept.")
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Eight bits for convolutions and products of the prediction: a quarter."
        ),
    ] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE|FOLDER",
            help="Photographs to measure ranges on and to prove the file with, 200 at most; "
            "repeatable.",
            show_default="noise for --half",
        ),
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="The least mean correlation of the maps with the original's; below it nothing is "
            "written.",
            show_default="0.999, for --int8 0.95",
        ),
    ] = None,
) -> None:
    """Make an exported .onnx file smaller, and prove it anew beside the original.

    - `camcore convert resnet18.onnx --half -o half.onnx`

    - `camcore convert resnet18.onnx --int8 --images photos/ -o int8.onnx`

    The proof on the new file's card says on how many images the best class was kept, how the maps
    correlate, whether their peaks stayed, and the largest differences.
    """
    if half == int8:
        raise InputError("one of --half and --int8 is needed")
    paths.check_folder(output.parent, f"--output {output}")
    paths.check_targets([("--output", output)], [file])
    found = paths.find_images(images or ())
    with needs("convert"):
        from camcore.adapters.convert.convert import convert as convert_file
        from camcore.adapters.images import read_image
    with working(f"converting {file}"):
        pictures = map(read_image, found[:: max(1, len(found) // _MOST)][:_MOST])
        card = convert_file(file, output, "half" if half else "int8", pictures, least=least)
    sizes = [path.stat().st_size for path in (output, file)]
    out.print(
        f"[green]wrote[/green] {escape(str(output))}: {sizes[0] / 1e6:.2f} MB, "
        f"{sizes[0] / sizes[1]:.2f} of {escape(str(file))}",
        soft_wrap=True,
    )
    out.print(f"proof: {escape(told(card.proof))}", soft_wrap=True)


def told(proof: dict[str, Any]) -> str:
    """The proof of a converted file, less that of the original.

    >>> told({"images": 3, "map_correlation": 0.9998, "original": {}})
    'images 3, map correlation 0.9998'
    """
    shown = {name: value for name, value in proof.items() if name != "original"}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())
