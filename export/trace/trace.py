"""Step 1, trace: an eager model becomes one functional ATen graph."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from inspect import signature
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.attention import SDPBackend, sdpa_kernel

from camcore.errors import CamcoreError, ExportError, InputError
from camcore.export.trace.checks import check_example, check_model, check_random
from camcore.export.trace.functional import decomposed
from camcore.export.trace.graphs import first_line, first_names, without_assertions
from camcore.export.trace.inline import inline_modes
from camcore.export.trace.sizes import (
    Conditions,
    check_batches,
    check_other_sizes,
    check_pools,
    check_steps,
    conditions_of,
    simple_sizes,
    try_another_size,
)
from camcore.export.trace.state import kept_state, without_writes
from camcore.export.trace.subject import Subject

# Losses, for targets: kept whole, torch 2.15 gives them the wrong shape when it traces the graph
# again, that of their mean.
_LOSSES = (
    torch.ops.aten.cross_entropy_loss.default,
    torch.ops.aten.nll_loss_nd.default,
    torch.ops.aten.nll_loss.default,
    torch.ops.aten.nll_loss2d.default,
    torch.ops.aten.nll_loss_forward.default,
    torch.ops.aten.nll_loss2d_forward.default,
)

# A size that nothing else in a model has.
_BATCH = 23


@dataclass(frozen=True)
class Trace:
    """A traced model.

    `graph` takes the inputs and returns what the model returned; its weights are the model's own
    tensors, under their own names. Each node's `meta["nn_module_stack"]` tells the modules it came
    from. `size` is the example's; `dynamic_size` says whether it is free, `notes` why not.
    """

    graph: fx.GraphModule
    size: tuple[int, ...]
    dynamic_size: bool
    notes: tuple[str, ...] = ()


def trace(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    dynamic_size: bool | None = None,
    root: str = "",
    queries: bool = False,
) -> Trace:
    """Trace a model in eval mode.

    Args:
        model: a module that takes images, and maybe more; it is not changed.
        example: inputs that the model accepts, images first; only the shapes matter. The first axis
            of each is the batch.
        dynamic_size: True asks for free height and width, False fixes the example's, None frees
            them where the model allows it. The batch is always free.
        root: the submodule that names of modules are relative to.
        queries: the last input is not that submodule's, and its second axis is free.

    Raises:
        InputError: training mode, weights that are not finite, or no batch of images.
        ExportError: `torch.export` cannot trace the model, or not with the freedom asked for.
    """
    user_model = model.get_submodule(root) if root else model
    check_model(user_model)
    inputs = example if isinstance(example, tuple) else (example,)
    with kept_state(user_model):
        ask = model.ask if isinstance(model, Subject) else user_model
        check_example(ask, inputs[:-1] if queries else inputs)
        return _trace(model, tuple(map(example_batch, inputs)), dynamic_size, root, queries)


def _trace(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic_size: bool | None,
    root: str,
    queries: bool,
) -> Trace:
    axes = range(2, inputs[0].ndim)
    size = tuple(inputs[0].shape[axis] for axis in axes)
    reason = "on request"
    if dynamic_size is not False:
        try:
            try_another_size(model, inputs, attention=dynamic_size is True)
            with nullcontext() if dynamic_size else simple_sizes():
                graph, conditions = _capture(model, inputs, root, queries, free=axes)
            check_steps(graph)
            check_pools(graph)
            check_other_sizes(model, graph, inputs, conditions)
            check_batches(model, graph, inputs, conditions)
            return Trace(graph, size, dynamic_size=True)
        except InputError:
            raise
        except Exception as error:
            if dynamic_size:
                raise ExportError(
                    "the model cannot be exported with free height and width: "
                    f"{first_line(error)}. Leave dynamic_size out, or set it to False"
                ) from error
            reason = f"because the model fixes them: {first_line(error)}"
    try:
        graph, conditions = _capture(model, inputs, root, queries, free=())
        check_batches(model, graph, inputs, conditions)
    except CamcoreError:
        raise
    except Exception as error:
        raise ExportError(f"torch.export cannot trace the model: {_reason(error)}") from error
    frames = "the number of frames, " if getattr(model, "frames", False) else ""
    notes = (f"{frames}height and width are fixed {reason}",)
    return Trace(graph, size, dynamic_size=False, notes=notes)


def _reason(error: Exception) -> str:
    """Why torch.export gave up where nothing but the batch is free, and what to do about it."""
    if isinstance(error, GuardOnDataDependentSymNode):
        place = str(error).partition("The following call raised this error:\n")[2].splitlines()
        told = ": " + ", ".join(map(str.strip, place[:2])) if place else ""
        return (
            f"its Python code decides by values of the image, which a graph cannot{told}. Compute "
            "both results, and choose with torch.where"
        )
    if "specialized it to be a constant" in str(error):
        return (
            f"{first_line(error)}. The batch has to stay free: len(x) fixes it, x.shape[0] does not"
        )
    return first_line(error)


def example_batch(example: Tensor) -> Tensor:
    """An example of the right batch to trace with, of zeros.

    A batch of one would be traced as a constant, and one that equals some other size of the model
    (two classes, a stride of two) would be taken for it.
    """
    return example.new_zeros(_BATCH, *example.shape[1:])


def _capture(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    root: str,
    queries: bool,
    *,
    free: Sequence[int],
) -> tuple[fx.GraphModule, Conditions]:
    """The graph, and what it takes for granted of its inputs' sizes."""
    batch = {0: Dim.DYNAMIC}
    shapes: tuple[Any, ...] = (batch | dict.fromkeys(free, Dim.DYNAMIC),)
    if len(inputs) > 1:
        others = tuple(batch for _ in inputs[1:])
        if queries:
            others = (*others[:-1], batch | {1: Dim.DYNAMIC})
        rest = any(p.kind is p.VAR_POSITIONAL for p in signature(model.forward).parameters.values())
        shapes += (others,) if rest else others
    # The plain form of attention has gradient rules; the fused kernels have none.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # Recurrent layers bundle their weights anew when they are called.
        warnings.filterwarnings("ignore", message="The tensor attribute.* assigned during export")
        # What a model makes at its first run and keeps (LeViT its biases) must be tensors of its
        # own, not the tracer's.
        model(*(value[:1] for value in inputs))
        with redirect_stderr(StringIO()):  # where PyTorch prints what it has of a failed graph
            exported = torch.export.export(model, inputs, dynamic_shapes=shapes)
        conditions = conditions_of(exported)
        inline_modes(exported.graph_module, inputs[0].device.type)
        graph = functional(exported, model, root)
    check_random(graph, inputs)
    return graph, conditions


def functional(exported: ExportedProgram, model: nn.Module, root: str) -> fx.GraphModule:
    """An exported model as a graph that writes into nothing and only computes.

    Its weights are the model's own tensors; names of modules are relative to the submodule `root`.
    """
    known = torch.export.default_decompositions()
    rules = {loss: known[loss] for loss in _LOSSES} | _OWN_FORMS
    graph = decomposed(exported, rules).module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    return _named(model, root, without_assertions(_frozen(without_writes(graph))))


def _copied(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """What is left of writing into a slice (`x[:, 1:] += y`), which autograd has no formula for."""
    return source.to(x.dtype).expand_as(x)


def _padded(
    x: Tensor, padding: Sequence[int], mode: str = "constant", value: float | None = None
) -> Any:
    """Circular padding as what it puts together; PyTorch writes it into memory, piece by piece."""
    if mode != "circular":
        return NotImplemented
    for n, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True), 1):
        axis = x.ndim - n
        size = x.shape[axis]
        left, right = x.narrow(axis, size - before, before), x.narrow(axis, 0, after)
        x = torch.cat([left, x, right], dim=axis)
    return x


# Forms of operators that can be traced again, for gradients and for files.
_OWN_FORMS = {torch.ops.aten.copy.default: _copied, torch.ops.aten.pad.default: _padded}


def _named(model: nn.Module, root: str, graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with the names of modules, in what its nodes know, relative to a submodule.

    A module under several names goes by the first of them.
    """
    first = first_names(model.get_submodule(root) if root else model)
    for node in graph.graph.nodes:
        stack = node.meta.get("nn_module_stack", {})
        relative = {
            call: ("" if name == root else name.removeprefix(f"{root}."), kind)
            for call, (name, kind) in stack.items()
        }
        node.meta["nn_module_stack"] = {
            call: (first.get(name, name), kind) for call, (name, kind) in relative.items()
        }
    return graph


def _frozen(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with parameters as buffers: the same storage, but none asks for a gradient."""
    frozen = {id(parameter): parameter.detach() for parameter in graph.parameters()}
    for name, parameter in list(graph.named_parameters(remove_duplicate=False)):
        owner_name, _, attribute = name.rpartition(".")
        owner = graph.get_submodule(owner_name)
        delattr(owner, attribute)
        owner.register_buffer(attribute, frozen[id(parameter)])
    return graph
