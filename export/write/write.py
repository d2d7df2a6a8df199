"""Write: an explained module becomes the bytes of an `.onnx`, `.pt` or `.pt2` file.

All three formats come from one exported program. The bytes carry no card yet: it is attached once
they are proven.
"""

from collections.abc import Callable

from torch.export import ExportedProgram

from camcore.card import Card
from camcore.export.write.onnx_file import to_onnx
from camcore.export.write.pt2_file import to_pt2
from camcore.export.write.torchscript_file import to_torchscript

WRITERS: dict[str, Callable[[ExportedProgram, Card], bytes]] = {
    ".onnx": to_onnx,
    ".pt": to_torchscript,
    ".pt2": to_pt2,
}
