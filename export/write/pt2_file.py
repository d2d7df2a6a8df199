"""Files of torch.export: the captured program itself."""

import operator
from io import BytesIO

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from camcore.card import Card
from camcore.export.write.capture import rewrite

aten = torch.ops.aten


def to_pt2(program: ExportedProgram, card: Card) -> bytes:
    """A `torch.export` archive, good for every size that the proof tries."""
    # Newer versions of PyTorch save what they guessed from the example's sizes, "batch is not 1"
    # among it, and `module()` would insist on it.
    vars(program).get("_guards_code", []).clear()
    # K from "not 1" to two classes is a fixed size to torch 2.11.
    for symbol, span in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(span.lower, int_oo)
    rewrite(program, _add_sizes_in_pairs)
    # Nobody needs the images of the trace again: 14 MB of them at 224 x 224.
    program.example_inputs = None
    buffer = BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _add_sizes_in_pairs(graph: fx.Graph) -> None:
    """Sums of sizes as additions, for torch 2.11 has no place for the sums in its archive."""
    for node in graph.find_nodes(op="call_function", target=torch.sym_sum):
        total, *others = node.args[0]
        with graph.inserting_before(node):
            for other in others:
                values = fx.map_arg((total, other), lambda argument: argument.meta["val"])
                total = graph.call_function(operator.add, (total, other))
                total.meta["val"] = operator.add(*values)
        node.replace_all_uses_with(total)
        graph.erase_node(node)
