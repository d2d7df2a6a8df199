"""Lower: what torch.onnx has no translation for becomes what it has one for.

torch.onnx asks a program to decompose itself, by a table, and the program traces all that it does
anew: of an export that takes most of the time. A captured program is of operators that are
translated as they are but for a handful, each of which is traced by itself.
"""

from functools import partial
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from camcore.export.write.capture import rewrite
from camcore.export.write.spell_out import Rules, spell_out_node

# PyTorch takes operators apart that may return a view of what they are given. This one is
# translated as it is.
_TRANSLATED = {torch.ops.aten.reshape.default}


def decompose_by_node(program: ExportedProgram) -> None:
    """Let a program decompose itself operator by operator, in place, when it is asked to."""
    vars(program)["run_decompositions"] = partial(_decomposed, program)


def _decomposed(program: ExportedProgram, rules: Rules) -> ExportedProgram:
    rewrite(program, partial(_lower, rules=rules))
    return program


def _lower(graph: fx.Graph, rules: Rules) -> None:
    for node in list(graph.nodes):
        if node.target in rules or _is_composite_view(node.target):
            spell_out_node(graph, node, rules, composite=False)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        node.meta.setdefault("nn_module_stack", {})  # torch.onnx warns where there is none


def _is_composite_view(operator: Any) -> bool:
    """Whether an operator is made of others, and may return a view of its input."""
    if not isinstance(operator, torch._ops.OpOverload) or operator in _TRANSLATED:
        return False
    name: str = operator.name()  # type: ignore[no-untyped-call]
    made_of_others = torch._C._dispatch_has_kernel_for_dispatch_key(
        name, "CompositeImplicitAutograd"
    )
    return made_of_others and any(
        argument.alias_info is not None for argument in operator._schema.arguments
    )
