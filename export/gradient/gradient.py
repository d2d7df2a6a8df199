"""The gradient of a tail, traced once into two graphs of forward operators."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import decomposition_table
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from camcore.errors import ExportError
from camcore.export.cut import Cut, cut, repeat_batch
from camcore.export.gradient.guided import GuidedReLUs
from camcore.export.gradient.narrow import narrow
from camcore.export.gradient.rules import OWN_OPERATORS, RULES, RULES_FOR_INFINITY
from camcore.export.gradient.rules.grids import has_corners, sample_corners
from camcore.export.gradient.rules.pools import POOLS
from camcore.export.gradient.rules.stand_ins import KEPT
from camcore.export.trace.graphs import first_line, module_of, outputs_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Gradient:
    """The tail's forward pass, and the pass back from a class's score to the activations.

    `forward(*activations, *crossing)` returns `(*outputs, *saved)`; `backward(classes, *saved)`
    returns the gradients of each image's score for its class, `classes` (B,), with respect to its
    activations, then to the tail's inner values. `batch_axes` tells for each saved value which axis
    counts the batch, None where none does.

    Classes may number K times the batch, class by class (all images for the first class, then all
    for the second): then `repeat_saved` makes what the backward pass takes.
    """

    forward: fx.GraphModule
    backward: nn.Module
    batch_axes: tuple[int | None, ...]

    def repeat_saved(self, saved: Sequence[Any], times: int) -> list[Any]:
        """The saved values for `times` classes an image, in the order of the classes."""
        return repeat_batch(saved, self.batch_axes, times)


def trace_gradient(
    tail: fx.GraphModule,
    activations: Sequence[Tensor],
    crossing: Sequence[Any],
    *,
    explained: int = 0,
    inner: int = 0,
    contrast: Callable[[Tensor, Tensor], Tensor] | None = None,
    guided: bool = False,
) -> Gradient:
    """Trace the gradient of a tail's scores with respect to activations.

    Args:
        tail: takes `(*activations, *crossing)` and returns a tuple of outputs.
        activations, crossing: example values with symbolic sizes, as the cut gives them.
        explained: the index of the output that holds the scores (B, N).
        inner: how many of the last outputs are values inside the tail whose gradients are asked
            for as well.
        contrast: a function of scores (B, N) and classes (B, 1) that is explained in place of the
            classes' scores.
        guided: on the way to the activations, but not to the inner values, gradients go through
            guided ReLUs.

    Raises:
        ExportError: an operator of the tail has no gradient, or none in forward operators; it is
            named with its module. Or there is no ReLU to be guided.
    """
    joint = _trace_joint(tail, activations, crossing, explained, inner, guided)
    count = len(outputs_of(tail))
    return _at_the_seed(joint, count, explained, contrast)


def gradient_of(
    parts: Cut,
    roots: Sequence[fx.Node],
    inner: Sequence[fx.Node] = (),
    *,
    contrast: Callable[[Tensor, Tensor], Tensor] | None = None,
    guided: bool = False,
) -> Gradient:
    """Of the last output of a tail before its inner values, with respect to its roots and those.

    Args: as `trace_gradient`'s, for a graph that was cut by `cut_with_inner`.
    """
    return trace_gradient(
        parts.tail,
        [node.meta["val"] for node in roots],
        parts.crossing,
        explained=len(outputs_of(parts.tail)) - len(inner) - 1,
        inner=len(inner),
        contrast=contrast,
        guided=guided,
    )


def trace_second_order(
    tail: fx.GraphModule, activation: Tensor, crossing: Sequence[Any], *, explained: int = 0
) -> Gradient:
    """Trace the gradient G of a tail's scores, and the Hessian times the activation, H A.

    The traced gradient has forward operators only, so it is differentiated like any tail: H A is
    the gradient of the sum of A G with the factor A held fixed. Autograd's own second derivatives
    fix the batch to the example's.

    Args: as `trace_gradient`'s, for one activation.

    Raises:
        ExportError: as `trace_gradient`, of first and second derivatives.
    """
    _refuse_detached(tail)
    first = _trace_joint(tail, [activation], crossing, explained)
    *_, seed = first.graph.find_nodes(op="placeholder")
    count = len(outputs_of(tail))
    given = [*crossing, seed.meta["val"]]
    second = _trace_joint(first, [activation], given, count, again=True)
    fixed, *_, seed, factor = second.graph.find_nodes(op="placeholder")
    factor.replace_all_uses_with(fixed)
    second.graph.erase_node(factor)
    second.recompile()
    return _at_the_seed(second, count, explained, None)


def _at_the_seed(
    joint: fx.GraphModule,
    count: int,
    explained: int,
    contrast: Callable[[Tensor, Tensor], Tensor] | None,
) -> Gradient:
    """`(..., seed) -> (*outputs, *gradients)`, `count` outputs, cut into two."""
    outputs, gradients = outputs_of(joint)[:count], outputs_of(joint)[count:]
    joint.graph.output_node().args = (tuple(gradients),)
    *_, seed = joint.graph.find_nodes(op="placeholder")
    parts = cut(joint, at=[seed], kept=outputs)
    axes = parts.batch_axes
    if contrast is None and isinstance(seed.meta["val"].shape[1], int):
        return Gradient(parts.head, _seeded_by_class(parts.tail, seed.meta["val"]), axes)
    # The seed depends on the scores then, or on their number, so they are saved as well.
    scores = outputs[explained]
    forward = parts.head
    forward.graph.output_node().args = ((*outputs_of(forward), outputs_of(forward)[explained]),)
    forward.recompile()
    seeds = _trace_seeds(contrast or _own_score, scores.meta["val"])
    return Gradient(forward, _SeededByContrast(seeds, parts.tail), (*axes, 0))


def _trace_joint(
    tail: fx.GraphModule,
    activations: Sequence[Tensor],
    crossing: Sequence[Any],
    explained: int,
    inner: int = 0,
    guided: bool = False,
    again: bool = False,
) -> fx.GraphModule:
    """`(*activations, *crossing, seed) -> (*outputs, *gradients)`, by the gradient rules.

    With `again` the tail is such a graph itself. A gradient that is constant has zeros for its own.

    `make_fx` records what the autograd engine does. Exporting a module that calls `autograd.grad`
    would not: there, outputs saved for the backward pass turn into constants, and the map freezes
    to the example image.
    """
    narrowed = None if again else narrow(tail, explained)

    def joint(*values: Any) -> tuple[Tensor, ...]:
        *given, seed = values
        leaves = [value.detach().requires_grad_() for value in given[: len(activations)]]
        # Copies, for the tail may begin with an operator that refuses a leaf.
        copies = [leaf.clone() for leaf in leaves]
        recorder = _GradientRecorder if again else _Recorder
        outputs = recorder(narrowed or tail).run(*copies, *given[len(activations) :])
        scores = outputs[explained]
        if narrowed is not None:
            *outputs, scores = outputs
        if again and not scores.requires_grad:
            return *outputs, *map(torch.zeros_like, leaves)
        within = list(outputs[len(outputs) - inner :])
        # Images do not influence each other, so the gradient of the sum holds each image's own.
        gradients = partial(torch.autograd.grad, scores, grad_outputs=seed, materialize_grads=again)
        if not guided:
            return *outputs, *gradients(leaves + within)
        plain = gradients(within, retain_graph=True) if within else ()
        with relus:
            return *outputs, *gradients(leaves), *plain

    seed = torch.empty_like(outputs_of(tail)[explained].meta["val"])
    relus = GuidedReLUs()
    try:
        # The plain form of attention has gradient rules; the fused kernels have none.
        with sdpa_kernel(SDPBackend.MATH), fx_traceback.preserve_node_meta():
            graph = make_fx(
                joint,
                decomposition_table=RULES_FOR_INFINITY if _may_be_infinite(tail) else RULES,
                tracing_mode="symbolic",
                _allow_non_fake_inputs=True,
            )(*activations, *crossing, seed)
    except (RuntimeError, NotImplementedError) as error:
        raise ExportError(f"the tail has no gradient to trace: {first_line(error)}") from error
    if guided and not relus.seen:
        raise ExportError(
            "guided gradients are those of guided ReLUs, and the model has no ReLU (ReLU6, GELU, "
            "SiLU and others keep their own gradients). Choose another method"
        )
    traced = _without_stand_ins(_with_weights_of(tail, graph))
    _check_rules(traced)
    return traced


def _may_be_infinite(tail: fx.GraphModule) -> bool:
    """Whether a gradient in the tail is infinite at zero, as that of a root behind a ReLU."""
    return any(
        node.target is aten.sqrt.default
        or (node.target is aten.pow.Tensor_Scalar and 0 < node.args[1] < 1)
        for node in tail.graph.nodes
    )


_GRID_SAMPLERS = {aten.grid_sampler.default, aten.grid_sampler_2d.default}


class _Recorder(fx.Interpreter):
    """Runs a tail while it is traced, with stand-ins for the operators of `KEPT`."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in POOLS and all(size == 1 for size in args[1]):
            # PyTorch does the same, and then moves the strides of a result in channels-last order,
            # which no exporter understands.
            return args[0].mean(dim=list(range(-len(args[1]), 0)), keepdim=True)
        if target in _GRID_SAMPLERS and args[0].ndim == 4 and has_corners(*args[2:4]):
            x, grid, _, _, align_corners = args
            return sample_corners(x, grid, align_corners)
        return super().call_function(KEPT.get(target, target), args, kwargs)


class _GradientRecorder(_Recorder):
    """Runs what was traced of a gradient, so that all it computes can be differentiated again."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is aten.detach.default:
            return args[0]  # autograd's, of what it saved; the tail has none of its own
        if target in OWN_OPERATORS:
            return OWN_OPERATORS[target](*args, **kwargs)
        if target in _WITH_STATISTICS:
            return decomposition_table[target](*args, **kwargs)
        return super().call_function(target, args, kwargs)


# The gradient uses their mean and deviation, of which autograd takes no derivative.
_WITH_STATISTICS = {aten.native_layer_norm.default, aten.native_group_norm.default}


def _refuse_detached(tail: fx.GraphModule) -> None:
    for node in tail.graph.find_nodes(op="call_function", target=aten.detach.default):
        if node.meta["val"].is_floating_point():
            raise ExportError(
                "second derivatives cannot be told from those of a value that is detached, as by "
                f"{module_of(node) or 'the model itself'}. Choose a later layer, or another method"
            )


def _without_stand_ins(graph: fx.GraphModule) -> fx.GraphModule:
    original: dict[Any, Any] = {stand_in: operator for operator, stand_in in KEPT.items()}
    # A view that was possible with the strides of the trace need not be with those of a run.
    original[aten.view.default] = aten.reshape.default
    for node in graph.graph.nodes:
        node.target = original.get(node.target, node.target)
    graph.recompile()
    return graph


def _with_weights_of(tail: fx.GraphModule, graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with its constants under the tail's names, so that a weight stays one tensor.

    Tracing turns every tensor it does not follow into a constant. The model's own are meant to be;
    any other would be part of the example image, frozen into the map.
    """
    own = {id(attrgetter(node.target)(tail)): node.target for node in _constants_of(tail)}
    for node in _constants_of(graph):
        tensor = attrgetter(node.target)(graph)
        if id(tensor) in own:
            node.target = own[id(tensor)]
        elif tensor.numel() == 1:
            tail.register_buffer(node.target, tensor)
        else:
            raise ExportError(
                f"a value of shape {tuple(tensor.shape)} would be frozen into the gradient, and "
                "the map would not follow the image. This is a fault of camcore: please report it"
            )
    traced = fx.GraphModule(tail, graph.graph)
    traced.graph.eliminate_dead_code()
    return traced


def _constants_of(graph: fx.GraphModule) -> list[Any]:
    return graph.graph.find_nodes(op="get_attr")


def _check_rules(joint: fx.GraphModule) -> None:
    for node in joint.graph.nodes:
        if "backward" in str(node.target):
            modules = sorted({module_of(value) for value in _sources(node)} - {""})
            raise ExportError(
                f"no gradient rule for the operator {node.target}, used by "
                f"{', '.join(modules) or 'the model itself'}. Choose a later layer, or a method "
                "that needs no gradients"
            )


def _sources(backward: fx.Node) -> list[fx.Node]:
    """The calls of the operator that a backward operator belongs to, else what goes into it."""
    forward = str(backward.target).partition("_backward")[0]
    calls = [node for node in backward.graph.nodes if str(node.target).startswith(f"{forward}.")]
    return calls or backward.all_input_nodes


def _seeded_by_class(backward: fx.GraphModule, seed_value: Tensor) -> fx.GraphModule:
    """The backward graph with a class per row as its input, in place of the seed (rows, N).

    The seed of a class's score is one-hot. Where it meets nothing but a weight (the usual
    classifier ends in a linear layer), the product is that weight's row, and the weight need not be
    read whole. Either form leaves it to the runtime to refuse a class that does not exist.
    """
    graph = backward.graph
    seed = graph.find_nodes(op="placeholder")[0]
    with graph.inserting_before(seed):
        classes = graph.placeholder("classes")
    for size in [user for user in seed.users if user.target is aten.sym_size.int]:
        size.replace_input_with(seed, classes)
    users = list(seed.users)
    if all(_is_product_with_weight(user) for user in users):
        for product in users:
            with graph.inserting_before(product):
                rows = graph.call_function(aten.index_select.default, (product.args[1], 0, classes))
            product.replace_all_uses_with(rows)
            graph.erase_node(product)
    else:
        with graph.inserting_before(users[0]):
            count = graph.call_function(aten.sym_size.int, (classes, 0))
            shape: Any = [count, seed_value.shape[1]]
            zeros = graph.call_function(
                aten.new_zeros.default, (classes, shape), {"dtype": seed_value.dtype}
            )
            column = graph.call_function(aten.unsqueeze.default, (classes, 1))
            one_hot = graph.call_function(aten.scatter.value, (zeros, 1, column, 1.0))
            seed.replace_all_uses_with(one_hot)
    graph.erase_node(seed)
    backward.recompile()
    return backward


def _own_score(scores: Tensor, classes: Tensor) -> Tensor:
    """The score (B, 1) of classes (B, 1), in operators that hold for any number of scores."""
    index = torch.arange(scores.shape[1], device=scores.device)
    return torch.where(index == classes, scores, 0.0).sum(dim=1, keepdim=True)


def _trace_seeds(contrast: Callable[[Tensor, Tensor], Tensor], scores: Tensor) -> fx.GraphModule:
    """`(scores, classes) -> seeds`, the gradient of the contrast with respect to the scores."""

    def seeds(scores: Tensor, classes: Tensor) -> Tensor:
        leaf = scores.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(contrast(leaf, classes[:, None]).sum(), leaf)
        return gradient

    classes = scores.new_zeros(scores.shape[0], dtype=torch.int64)
    traced: fx.GraphModule = make_fx(seeds, decomposition_table=RULES, tracing_mode="symbolic")(
        scores, classes
    )
    _check_rules(traced)
    return traced


class _SeededByContrast(nn.Module):
    """The backward graph with classes and scores as its input, in place of the seed."""

    def __init__(self, seeds: fx.GraphModule, backward: fx.GraphModule) -> None:
        super().__init__()
        self.seeds = seeds
        self.backward_pass = backward

    def forward(self, classes: Tensor, *saved: Any) -> Any:
        *others, scores = saved
        return self.backward_pass(self.seeds(scores, classes), *others)


def _is_product_with_weight(node: Any) -> bool:
    return node.target is aten.mm.default and node.args[1].op == "get_attr"
