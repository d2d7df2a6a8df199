"""Graphs: what is asked of a traced graph everywhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_leaves

# Nodes that check and compute nothing. They do not export, and the written file is proven anyway.
_ASSERTIONS = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten.sym_constrain_range_for_size.default,
}


def without_assertions(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph without nodes that only check, and without what only they needed."""
    for node in reversed(graph.graph.nodes):
        if node.target in _ASSERTIONS:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def outputs_of(graph: fx.GraphModule) -> list[fx.Node]:
    """The values that a graph returns, flattened."""
    returned = tree_leaves(graph.graph.output_node().args)
    return [value for value in returned if isinstance(value, fx.Node)]


def return_values(graph: fx.GraphModule, values: Sequence[fx.Node]) -> None:
    """Make a graph return these values, whatever it returned."""
    graph.graph.output_node().args = (tuple(values),)
    # What the exporter knew of the inputs and outputs as they were is out of date.
    graph.graph.set_codegen(CodeGen())


@contextmanager
def returning(graph: fx.GraphModule, values: Sequence[fx.Node]) -> Iterator[None]:
    """While it lasts, the graph returns these values."""
    output = graph.graph.output_node()
    plain, codegen = output.args, graph.graph._codegen
    return_values(graph, values)
    try:
        yield
    finally:
        output.args = plain
        graph.graph.set_codegen(codegen)


def module_of(node: fx.Node) -> str:
    """The name of the innermost module that a node stems from, empty for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def operator_name(node: fx.Node) -> str:
    """The operator that a node calls, without its overload."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def first_names(model: nn.Module) -> dict[str, str]:
    """For each name of each module, the first one under which it is found."""
    first = {module: name for name, module in model.named_modules()}
    return {name: first[module] for name, module in model.named_modules(remove_duplicate=False)}


def first_line(error: BaseException) -> str:
    """The first line of an error's text: PyTorch's go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def sizes_of(node: fx.Node) -> tuple[int, ...]:
    """The sizes of a value at the example image, none for what is no tensor."""
    value = node.meta.get("val")
    return tuple(map(hint, value.shape)) if isinstance(value, Tensor) else ()


def shape_of(node: fx.Node) -> tuple[str, ...]:
    """The sizes of a value as they are written: to compare symbolic ones would fix them."""
    return tuple(map(str, node.meta["val"].shape))


def hint(size: int | torch.SymInt) -> int:
    """The size at the example image."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else size  # type: ignore[arg-type]


def expression(size: Any) -> Any:
    """The symbolic expression of a size, or the number that it is."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def per_axis(values: Sequence[int], rank: int) -> list[int]:
    """ATen lets one value stand for all axes."""
    return list(values) * rank if len(values) == 1 else list(values)
