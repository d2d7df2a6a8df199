"""Functional: an exported model becomes a graph that writes into nothing, operator by operator.

PyTorch traces the whole model anew for that, which takes longer than all else of a trace. Most
models write in place nowhere but into what was made a moment before, as ReLUs do; there, the
operator's twin that returns a new value is the same.
"""

from collections.abc import Mapping
from operator import getitem, mul
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from camcore.export.trace.spelling import spell_out_node

aten = torch.ops.aten

_OF_SIZES = {torch.sym_min, torch.sym_max, torch.sym_int, torch.sym_float, torch.sym_not}

_DROPOUTS = {aten.dropout.default, aten.dropout_.default}


def decomposed(exported: ExportedProgram, rules: Mapping[Any, Any]) -> ExportedProgram:
    """What `exported.run_decompositions(rules)` gives, by the shorter way where there is one.

    A program that is taken the shorter way is changed in place.
    """
    signature = exported.graph_signature
    writes = signature.buffers_to_mutate or signature.user_inputs_to_mutate
    if writes or not all(_is_known(node, rules) for node in exported.graph.nodes):
        whole: ExportedProgram = exported.run_decompositions(dict(rules))
        return whole
    for node in exported.graph.nodes:  # which goes on behind a node that was erased
        if node.op == "call_function":
            _replace(exported.graph, node)
    exported.graph.eliminate_dead_code()
    exported.graph_module.recompile()
    returned: Any = exported.graph.output_node().args[0]
    for spec, value in zip(signature.output_specs, returned, strict=True):
        if isinstance(value, fx.Node):
            spec.arg.name = value.name  # another one, where the last operator was replaced
    return exported


def _is_known(node: fx.Node, rules: Mapping[Any, Any]) -> bool:
    """Whether it is known without a trace what becomes of a node."""
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    operator: Any = node.target
    if not isinstance(operator, torch._ops.OpOverload):
        # Arithmetic of sizes, and an operator's n-th result.
        return operator in _OF_SIZES or getattr(operator, "__module__", "") in ("_operator", "math")
    if operator in rules:
        return False
    if operator in _DROPOUTS:
        return not node.args[2] and (operator is aten.dropout.default or _may_be_replaced(node))
    if operator is aten.batch_norm.default:
        _, _, _, mean, variance, training, *_ = node.args
        return not training and None not in (mean, variance)
    if operator._schema.is_mutable:
        return _twin(operator) is not None and _is_of_one_type(node) and _may_be_replaced(node)
    return _is_pure(operator) or _returns_view(operator)


def _is_pure(operator: Any) -> bool:
    """Whether what an operator returns never shares memory with what it was given."""
    if not isinstance(operator, torch._ops.OpOverload) or operator._schema.is_mutable:
        return False
    if torch.Tag.maybe_aliasing_or_mutating in operator.tags:
        return operator is aten.batch_norm.default
    return not any(argument.alias_info is not None for argument in operator._schema.arguments)


def _returns_view(operator: Any) -> bool:
    """Whether its schema says that an operator may return a view, and of what."""
    if torch.Tag.maybe_aliasing_or_mutating in operator.tags:
        return False
    return any(argument.alias_info is not None for argument in operator._schema.arguments)


def _may_be_replaced(node: fx.Node) -> bool:
    """Whether nothing but a node itself sees what it writes into its first input."""
    written = node.args[0]
    if not isinstance(written, fx.Node) or written.op != "call_function":
        return False
    made: Any = written.target
    new = _is_pure(made) or (_twin(made) is not None and _may_be_replaced(written))
    others = [user for user in written.users if user is not node]
    # What writes into it before or after is replaced as well, or all is left to PyTorch.
    return new and all(
        user.op == "output" or _is_pure(user.target) or _twin(user.target) is not None
        for user in others
    )


def _is_of_one_type(node: fx.Node) -> bool:
    """Whether all that an operator takes is of the type that it writes: its twin would promote."""
    types = {value.meta["val"].dtype for value in node.all_input_nodes if _is_tensor(value)}
    return len(types) == 1 and types.pop().is_floating_point


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _twin(operator: Any) -> Any:
    """The operator that returns what another one writes into its first input, and alone there."""
    if not isinstance(operator, torch._ops.OpOverload):
        return None
    first, *further = operator._schema.arguments
    name = operator._schema.name.removeprefix("aten::")
    if first.alias_info is None or not first.alias_info.is_write or not name.endswith("_"):
        return None
    if any(argument.alias_info is not None for argument in further):
        return None
    packet = getattr(aten, name.removesuffix("_"), None)
    twin = getattr(packet, operator._overloadname, None)
    return twin if _is_pure(twin) and _same_arguments(operator, twin) else None


def _same_arguments(operator: Any, twin: Any) -> bool:
    names = [[argument.name for argument in each._schema.arguments] for each in (operator, twin)]
    return names[0] == names[1]


def _replace(graph: fx.Graph, node: fx.Node) -> None:
    operator: Any = node.target
    if operator in _DROPOUTS:
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        graph.erase_node(node)
    elif operator is aten.batch_norm.default:
        _replace_batch_norm(graph, node)
    elif isinstance(operator, torch._ops.OpOverload) and operator._schema.is_mutable:
        _replace_write(graph, node)
    elif _is_composite_view(operator):
        for part in spell_out_node(graph, node, {}, composite=False):
            part.meta = node.meta | {"val": part.meta["val"]}
            if part.target is aten.sym_numel.default:
                _multiply_sizes(graph, part)


def _replace_write(graph: fx.Graph, node: fx.Node) -> None:
    """Put an operator's twin in its place; who reads behind it what it wrote, reads the result."""
    written: Any = node.args[0]
    node.target = _twin(node.target)
    order = {each: place for place, each in enumerate(graph.nodes)}
    for user in list(written.users):
        if order[user] > order[node]:
            user.replace_input_with(written, node)


def _replace_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    value = node.meta["val"]
    x, weight, bias, mean, variance, _, momentum, eps, _ = node.args
    with graph.inserting_before(node):
        norm = graph.call_function(
            aten._native_batch_norm_legit_no_training.default,
            (x, weight, bias, mean, variance, momentum, eps),
        )
        norm.meta = node.meta | {"val": (value, value.new_empty(0), value.new_empty(0))}
        result = graph.call_function(getitem, (norm, 0))
        result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _multiply_sizes(graph: fx.Graph, numel: fx.Node) -> None:
    """Put the product of a tensor's sizes, as PyTorch writes it, in the place of their number."""
    x: Any = numel.args[0]
    with graph.inserting_before(numel):
        product: Any = None
        for axis, size in enumerate(x.meta["val"].shape):
            factor: Any = size
            if isinstance(size, torch.SymInt):
                factor = graph.call_function(aten.sym_size.int, (x, axis))
                factor.meta = numel.meta | {"val": size}
            if product is None:
                product, value = factor, size
                continue
            value = value * size
            product = graph.call_function(mul, (product, factor))
            product.meta = numel.meta | {"val": value}
    numel.replace_all_uses_with(product)
    graph.erase_node(numel)


def _is_composite_view(operator: Any) -> bool:
    """Whether an operator that may return a view is made of others."""
    if not isinstance(operator, torch._ops.OpOverload) or not _returns_view(operator):
        return False
    name: str = operator.name()  # type: ignore[no-untyped-call]
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
