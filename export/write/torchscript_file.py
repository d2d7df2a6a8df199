"""TorchScript files: the captured graph, scripted."""

import warnings
from io import BytesIO

import torch
from torch import fx
from torch.export import ExportedProgram

from camcore.card import Card
from camcore.errors import ExportError
from camcore.export.trace.graphs import first_line, without_assertions
from camcore.export.write.scripting import scriptable

aten = torch.ops.aten


def to_torchscript(program: ExportedProgram, card: Card) -> bytes:
    """A TorchScript archive: the captured graph, scripted, for a trace would fix its sizes."""
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    scripted = scriptable(without_assertions(graph), card.graph_inputs)
    buffer = BytesIO()
    with warnings.catch_warnings():
        # PyTorch deprecates TorchScript as a whole; whoever asks for this format knows. The other
        # one is about annotations in PyTorch's own fx.GraphModule.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.")
        warnings.filterwarnings("ignore", message="The TorchScript type system doesn't support")
        try:
            torch.jit.save(torch.jit.script(scripted), buffer)
        except RuntimeError as error:
            raise ExportError(f"the graph cannot be scripted: {first_line(error)}") from error
    return buffer.getvalue()
