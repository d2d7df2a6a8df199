"""Lower: what torch.onnx has no translation for becomes what it has one for.

torch.onnx asks a program to decompose itself, by a table, and the program traces all that it does
anew: of an export that takes most of the time. A captured program is of operators that are
translated as they are but for a handful, each of which is traced by itself.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.experimental import _config

from camcore.export.trace.spelling import Rules, spell_out_node
from camcore.export.write.capture import rewrite

aten = torch.ops.aten

# PyTorch takes operators apart that may return a view of what they are given. This one is
# translated as it is.
_TRANSLATED = {aten.reshape.default}


def decompose_by_node(program: ExportedProgram) -> None:
    """Let a program decompose itself operator by operator, in place, when it is asked to."""
    vars(program)["run_decompositions"] = partial(_decomposed, program)


def _decomposed(program: ExportedProgram, rules: Rules) -> ExportedProgram:
    if any(map(_writes, _calls(program))):
        # To take apart what is written in place is a matter of the whole program.
        decomposed: ExportedProgram = ExportedProgram.run_decompositions(program, dict(rules))
        return decomposed
    # torch.onnx has sizes looked at obliviously, which single operators cannot be traced by.
    with _config.patch(backed_size_oblivious=False):  # type: ignore[attr-defined]
        rewrite(program, partial(_lower, rules=rules))
    for spec, value in zip(program.graph_signature.output_specs, _returned(program), strict=True):
        spec.arg.name = value.name  # another one, where the last operator was taken apart
    return program


def _calls(program: ExportedProgram) -> Iterator[fx.Node]:
    for part in program.graph_module.modules():
        if isinstance(part, fx.GraphModule):
            yield from part.graph.nodes


def _writes(node: fx.Node) -> bool:
    """Whether a node changes a value in place; `detach_` changes none."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and node.target is not aten.detach_.default


def _returned(program: ExportedProgram) -> list[Any]:
    values: Any
    (values,) = program.graph.output_node().args
    return list(values)


def _lower(graph: fx.Graph, rules: Rules) -> None:
    for node in graph.find_nodes(op="call_function", target=aten.detach_.default):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
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
