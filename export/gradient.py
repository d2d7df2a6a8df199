"""The gradient of a tail, traced once into a forward and a backward graph of forward operators only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from camcore.errors import ExportError
from camcore.export.cut import batch_size, cut
from camcore.export.rules import KEPT, RULES
from camcore.export.trace import first_line, module_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Gradient:
    """The tail's forward pass, and the pass back from a class's score to the activation.

    `forward(activation, *crossing)` returns `(*outputs, *saved)`; `backward(classes, *saved)` returns, in a tuple of
    one, the gradient of each image's score for its class, `classes` (B,), with respect to its activation.
    `batch_axes` tells for each saved value which axis counts the batch, None where none does.

    Classes may number K times the batch, class by class (all images for the first class, then all for the second):
    then every saved value with a batch axis is repeated K times along it, see `repeat_saved`.
    """

    forward: fx.GraphModule
    backward: fx.GraphModule
    batch_axes: tuple[int | None, ...]

    def repeat_saved(self, saved: list[Any], times: int) -> list[Any]:
        """The saved values for `times` classes an image, in the order of the classes."""
        repeated = []
        for value, axis in zip(saved, self.batch_axes, strict=True):
            if axis is not None:
                value = value.repeat([times if a == axis else 1 for a in range(value.ndim)])
            repeated.append(value)
        return repeated


def trace_gradient(
    tail: fx.GraphModule, activation: Tensor, crossing: Sequence[Any], *, explained: int = 0
) -> Gradient:
    """Trace the gradient of a tail's scores with respect to its activation.

    Args:
        tail: takes `(activation, *crossing)` and returns a tuple of outputs.
        activation, crossing: example values with symbolic sizes, as the cut gives them.
        explained: the index of the output that holds the scores (B, N).

    Raises:
        ExportError: an operator of the tail has no gradient, or no rule for it; it is named with its module.
    """
    joint = _trace_joint(tail, activation, crossing, explained)
    _check(joint, tail)
    output = joint.graph.output_node()
    outputs, gradient = output.args[0]
    output.args = ((gradient,),)
    seed = [node for node in joint.graph.nodes if node.op == "placeholder"][-1]
    parts = cut(joint, at=seed, kept=outputs)
    batch = batch_size(activation)
    return Gradient(
        _with_kept_operators(parts.head),
        _seeded_by_class(parts.tail, outputs[explained].meta["val"].shape[1]),
        tuple(_batch_axis(value, batch) for value in parts.crossing),
    )


def _trace_joint(
    tail: fx.GraphModule, activation: Tensor, crossing: Sequence[Any], explained: int
) -> fx.GraphModule:
    """`(activation, *crossing, seed) -> (outputs, gradient)` as one graph under the gradient rules.

    `make_fx` records what the autograd engine does. Exporting a module that calls `autograd.grad` would not: there,
    outputs saved for the backward pass turn into constants, and the map freezes to the example image.
    """

    def joint(*values: Any) -> tuple[list[Tensor], Tensor]:
        activation, *crossing, seed = values
        leaf = activation.detach().requires_grad_()
        # A copy, for the tail may begin with an operator that refuses a leaf.
        outputs = _Recorder(tail).run(leaf.clone(), *crossing)
        (gradient,) = torch.autograd.grad(outputs[explained], leaf, seed)
        return outputs, gradient

    scores = tail.graph.output_node().args[0][explained].meta["val"]
    try:
        with sdpa_kernel(SDPBackend.MATH), fx_traceback.preserve_node_meta():
            graph = make_fx(
                joint,
                decomposition_table=RULES,
                tracing_mode="symbolic",
                _allow_non_fake_inputs=True,
            )(activation, *crossing, torch.empty_like(scores))
    except (RuntimeError, NotImplementedError) as error:
        raise ExportError(f"the gradient of the tail cannot be traced: {first_line(error)}") from error
    return _with_weights_of(tail, graph)


class _Recorder(fx.Interpreter):
    """Runs a tail while it is traced, with the operators of `KEPT` behind their stand-ins."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stand_in = KEPT.get(target)
        return super().call_function(stand_in or target, args, kwargs)


def _with_kept_operators(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with the operators of `KEPT` in place of their stand-ins."""
    original = {stand_in: operator for operator, stand_in in KEPT.items()}
    for node in graph.graph.nodes:
        node.target = original.get(node.target, node.target)
    graph.recompile()
    return graph


def _with_weights_of(tail: fx.GraphModule, graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with its constants under the names that the tail has for them, so that weights stay one tensor.

    Tracing turns every tensor it does not follow into a constant. Weights are meant to be; anything else would be
    part of the example image frozen into the map, and is refused.
    """
    names = {id(tensor): name for name, tensor in tail.named_buffers(remove_duplicate=False)}
    for node in graph.graph.nodes:
        if node.op != "get_attr":
            continue
        tensor = getattr(graph, node.target)
        if id(tensor) in names:
            node.target = names[id(tensor)]
        elif tensor.numel() > 1:
            raise ExportError(
                f"tracing the gradient froze a value of shape {tuple(tensor.shape)} into the graph; the map would "
                "not follow the image. Please report the model"
            )
        else:
            setattr(tail, node.target, tensor)
    traced = fx.GraphModule(tail, graph.graph)
    traced.graph.eliminate_dead_code()
    return traced


def _check(joint: fx.GraphModule, tail: fx.GraphModule) -> None:
    """Refuse backward operators that no rule replaced."""
    for node in joint.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and "backward" in node.target.name():
            users = {module_of(value) for value in node.all_input_nodes} - {""}
            raise ExportError(
                f"no gradient rule for the operator {node.target.name()}, used by "
                f"{', '.join(sorted(users)) or 'the model itself'}. Choose a later layer, or a method that needs no "
                "gradient"
            )


def _seeded_by_class(backward: fx.GraphModule, num_classes: int) -> fx.GraphModule:
    """The backward graph with a class id per row as its input, in place of a seed (rows, N).

    The seed of a class's score is one-hot. Where it meets nothing but a weight (the usual classifier ends in a linear
    layer), the product is that weight's row, and the weight need not be read whole. Both forms leave it to the runtime
    to refuse an id that is no class, which a comparison would turn into an empty map.
    """
    graph = backward.graph
    seed = next(iter(graph.nodes))
    first = next(iter(seed.users))
    with graph.inserting_before(seed):
        classes = graph.placeholder("classes")
    if len(seed.users) == 1 and first.target is aten.mm.default and first.args[1].op == "get_attr":
        with graph.inserting_before(first):
            rows = graph.call_function(aten.index_select.default, (first.args[1], 0, classes))
        first.replace_all_uses_with(rows)
        graph.erase_node(first)
    else:
        with graph.inserting_before(first):
            count = graph.call_function(aten.sym_size.int, (classes, 0))
            zeros = graph.call_function(
                aten.new_zeros.default,
                (classes, [count, num_classes]),
                {"dtype": seed.meta["val"].dtype},
            )
            column = graph.call_function(aten.unsqueeze.default, (classes, 1))
            one_hot = graph.call_function(aten.scatter.value, (zeros, 1, column, 1.0))
        seed.replace_all_uses_with(one_hot)
    graph.erase_node(seed)
    backward.recompile()
    return backward


def _batch_axis(value: Any, batch: Any) -> int | None:
    if not isinstance(value, Tensor):
        return None
    for axis, size in enumerate(value.shape):
        if isinstance(size, torch.SymInt) and size.node.expr.has(batch):
            return axis
    return None
