"""Scripting: a captured graph in the words of TorchScript."""

import operator
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._higher_order_ops.scan import scan_op
from torch._higher_order_ops.while_loop import while_loop_op

from camcore.export.trace.graphs import outputs_of

aten = torch.ops.aten

# What is asked of symbolic sizes, and of the integers they are in TorchScript.
_OF_SIZES: dict[Any, Any] = {
    torch.sym_float: float,
    torch.sym_max: max,
    torch.sym_min: min,
    torch.sym_sum: sum,
}


def scriptable(module: fx.GraphModule, names: Sequence[str] = ()) -> fx.GraphModule:
    """The graph in the operators' names and argument types that TorchScript knows."""
    graph = module.graph
    inputs = graph.find_nodes(op="placeholder")
    for node, name in zip(inputs, names, strict=False):
        node.target = name
    for number, loop in enumerate(graph.find_nodes(op="call_function", target=scan_op)):
        _script_scan(module, loop, f"loop_{number}")
    for number, loop in enumerate(graph.find_nodes(op="call_function", target=while_loop_op)):
        _script_while(module, loop, f"while_{number}")
    with graph.inserting_after(inputs[-1]):
        # Constants made on the way go to the image's device, not to that of the exporting machine.
        device = graph.call_function(torch.ops.prim.device, (inputs[0],))
    for node in graph.nodes:
        if "device" in node.kwargs:
            node.update_kwarg("device", device)
        if node.target is aten.sym_size.int:
            node.target = aten.size
        elif node.target in (aten.item.default, aten._local_scalar_dense.default):
            # A size that was computed: of a scalar, TorchScript does not know whether it is whole.
            node.target = int
        elif node.target in _OF_SIZES:
            node.target = _OF_SIZES[node.target]
            # The sum of a list, for a tuple has none.
            node.args = tuple(list(a) if isinstance(a, tuple | list) else a for a in node.args)
        elif isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
    graph.output_node().args = (tuple(outputs_of(module)),)
    graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(module, graph)


def _script_scan(module: fx.GraphModule, scan: Any, name: str) -> None:
    """Put a module with a loop of TorchScript's in the place of a scan."""
    step, start, chunks, given = scan.args
    body = _scriptable_part(module, step, given)
    _put_loop(module, scan, name, _Loop(body), (start[0], chunks[0]), given)


def _script_while(module: fx.GraphModule, loop: Any, name: str) -> None:
    """Put a module with a loop of TorchScript's in the place of one that is as long as it needs."""
    condition, step, carried, given = loop.args
    parts = [_scriptable_part(module, part, given) for part in (condition, step)]
    _put_loop(module, loop, name, _While(*parts), carried, given)


def _scriptable_part(module: fx.GraphModule, part: Any, given: Sequence[Any]) -> fx.GraphModule:
    """A graph that a loop runs, with what it is given in two lists."""
    # A copy, for the program that the graph is of has the same one.
    body = scriptable(deepcopy(module.get_submodule(part.target)))  # type: ignore[arg-type]
    _take_lists(body.graph, _are_tensors(given))
    body.recompile()
    return body


def _are_tensors(given: Sequence[Any]) -> list[bool]:
    return [isinstance(node.meta["val"], Tensor) for node in given]


def _put_loop(
    module: fx.GraphModule,
    node: Any,
    name: str,
    loop: nn.Module,
    carried: Sequence[Any],
    given: Sequence[Any],
) -> None:
    """Put a scripted loop in the place of a node, and drop the graphs that the node ran."""
    module.add_submodule(name, loop)
    are_tensors = _are_tensors(given)
    tensors, sizes = (
        [value for value, is_tensor in zip(given, are_tensors, strict=True) if is_tensor is wanted]
        for wanted in (True, False)
    )
    # An empty list would be taken for one of tensors.
    arguments = (*carried, tensors, [*sizes, 0])
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.call_module(name, arguments))
    parts = [str(arg.target) for arg in node.args if isinstance(arg, fx.Node)]
    module.graph.erase_node(node)
    # First the node, then what it names: a graph is not allowed to name what is not there.
    module.graph.eliminate_dead_code()
    for part in parts:
        module.delete_submodule(part)


def _take_lists(step: fx.Graph, are_tensors: Sequence[bool]) -> None:
    """Let a step take its values as a list of tensors and a list of sizes, behind the first two."""
    _, last, *values = step.find_nodes(op="placeholder")
    with step.inserting_after(last):
        sizes = step.placeholder("sizes", type_expr=list[int])
        tensors = step.placeholder("tensors", type_expr=list[Tensor])
    places = {tensors: 0, sizes: 0}
    for value, is_tensor in zip(values, are_tensors, strict=True):
        whole = tensors if is_tensor else sizes
        with step.inserting_before(value):
            one = step.call_function(operator.getitem, (whole, places[whole]))
        places[whole] += 1
        value.replace_all_uses_with(one)
        step.erase_node(value)


class _Loop(nn.Module):
    """A scan over chunks with one carried and one stacked value."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(
        self, start: Tensor, chunks: Tensor, tensors: list[Tensor], sizes: list[int]
    ) -> tuple[Tensor, Tensor]:
        carried = start
        found: list[Tensor] = []
        for n in range(chunks.size(0)):
            carried, one = self.step(carried, chunks[n], tensors, sizes)
            found.append(one)
        return carried, torch.stack(found)


class _While(nn.Module):
    """A loop with two carried values, which goes on while a condition on them holds."""

    def __init__(self, condition: nn.Module, step: nn.Module) -> None:
        super().__init__()
        self.condition = condition
        self.step = step

    def forward(
        self, value: Tensor, still: Tensor, tensors: list[Tensor], sizes: list[int]
    ) -> tuple[Tensor, Tensor]:
        while bool(self.condition(value, still, tensors, sizes)[0]):
            value, still = self.step(value, still, tensors, sizes)
        return value, still
