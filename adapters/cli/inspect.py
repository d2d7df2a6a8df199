"""`camcore inspect`: what a file says of itself."""

from camcore.adapters import tables
from camcore.adapters.cli.arguments import ModelFile
from camcore.adapters.cli.console import out
from camcore.adapters.files import opened
from camcore.adapters.onnx_content import onnx_ports


def inspect(file: ModelFile) -> None:
    """Show what a file says of itself. Needs neither PyTorch nor onnxruntime.

    - `camcore inspect resnet18.onnx`
    """
    with opened(file) as (content, card):
        shown = [tables.card_table(file, card)]
        if file.suffix.lower() == ".onnx":
            shown.append(tables.ports_table(*onnx_ports(content)))
    out.print(*shown, sep="")
