"""`camcore kernels`: the kernels as small ONNX models, for graphs of one's own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from camcore.adapters import paths
from camcore.adapters.cli.console import counting, out
from camcore.adapters.extras import needs
from camcore.adapters.files import writing
from camcore.errors import unknown_name


def kernels(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the models, made if need be.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel", metavar="NAME", help="One to write; repeatable.", show_default="all"
        ),
    ] = None,
) -> None:
    """Write each kernel as a small ONNX model, to be joined to a graph without Python at its side.

    - `camcore kernels --output kernels/`

    - `camcore kernels --output kernels/ --kernel gradcam --kernel postprocess`

    Shapes are free: maps (B, H, W), activations (B, C, H, W). Each model has the kernel's
    docstring, and those of its inputs their axes. `onnx.compose.merge_models` joins them to others
    of opset 18.
    """
    paths.check_folder(output, f"--output {output}", make=True)
    with needs("export"):
        from camcore.export.write.kernels import KERNELS, kernel_model
    for name in names or ():
        if name not in KERNELS:
            raise unknown_name("kernel", name, KERNELS)
    paths.make_folder(output)
    chosen = list(dict.fromkeys(names or KERNELS))
    table = Table("file", "takes", "gives", "what it does")
    with counting("kernels", len(chosen)) as advance:
        for name in chosen:
            model = kernel_model(name)
            path = output / f"{name}.onnx"
            with writing(path):
                path.write_bytes(model.SerializeToString())
            kernel = KERNELS[name]
            summary = " ".join(kernel.text.partition("\n\n")[0].split())
            table.add_row(path.name, ", ".join(kernel.names), kernel.output, escape(summary))
            advance(1)
    out.print(table)
