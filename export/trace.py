"""Step 1, trace: an eager model becomes one functional ATen graph."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from camcore.errors import ExportError, InputError
from camcore.export.rules import FORWARD_RULES

# Nodes that check rather than compute. The proof checks the written file; the checks themselves do not export.
_ASSERTIONS = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten.sym_constrain_range_for_size.default,
}


@dataclass(frozen=True)
class Trace:
    """A traced model.

    `graph` takes the images (B, C, H, W) and returns what the model returned; its weights are the model's own
    tensors, under their own names. Each node's `meta["nn_module_stack"]` tells the modules it came from.
    `dynamic_size` says whether height and width are free, and `notes` why not.
    """

    graph: fx.GraphModule
    dynamic_size: bool
    notes: tuple[str, ...] = ()


def trace(model: nn.Module, example: Tensor, *, dynamic_size: bool | None = None) -> Trace:
    """Trace a model in eval mode.

    Args:
        model: a module that takes images and returns class scores (B, N); it is not changed.
        example: images of a shape that the model accepts, (B, C, H, W); only the shape matters.
        dynamic_size: True asks for free height and width, False fixes the example's, None frees them where the
            model allows it. The batch is always free.

    Raises:
        InputError: training mode, weights that are not finite, or an example that is no batch of images.
        ExportError: `torch.export` cannot trace the model, or not with the freedom asked for.
    """
    _check(model, example)
    # One image would be traced as a constant batch of one; the content of the example never matters.
    example = example.detach() if len(example) > 1 else torch.cat([example.detach()] * 2)
    if dynamic_size is False:
        return Trace(_capture(model, example, free_size=False), False, ("height and width: fixed on request",))
    try:
        return Trace(_capture(model, example, free_size=True), True)
    except Exception as error:
        if dynamic_size:
            raise ExportError(
                f"the model cannot be exported with free height and width: {first_line(error)}. "
                "Leave dynamic_size out, or set it to False"
            ) from error
        reason = f"height and width: fixed, because the model fixes them ({first_line(error)})"
    return Trace(_capture(model, example, free_size=False), False, (reason,))


def _check(model: nn.Module, example: Tensor) -> None:
    training = [name or "the model itself" for name, module in model.named_modules() if module.training]
    if training:
        raise InputError(
            f"the model is in training mode ({', '.join(training[:3])}): batch norm and dropout would answer "
            "differently each time. Call model.eval() first"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"the weights hold NaN or infinity in {name!r}; load sound weights first")
    if example.ndim < 3 or not example.is_floating_point() or 0 in example.shape:
        raise InputError(
            f"example has shape {tuple(example.shape)} and dtype {example.dtype}, expected a batch of images "
            "(B, C, H, W) of a floating-point dtype"
        )


def _capture(model: nn.Module, example: Tensor, *, free_size: bool) -> fx.GraphModule:
    free = {axis: Dim.DYNAMIC for axis in range(2, example.ndim)} if free_size else {}
    try:
        # The fused attention kernels have no gradient rule in terms of forward operators; the plain form has.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            exported = torch.export.export(model, (example,), dynamic_shapes=({0: Dim.DYNAMIC, **free},))
            graph = exported.run_decompositions(FORWARD_RULES).module(check_guards=False)
    except Exception as error:
        if free_size:
            raise
        raise ExportError(f"torch.export cannot trace the model: {first_line(error)}") from error
    assert isinstance(graph, fx.GraphModule)
    return without_assertions(_frozen(graph))


def _frozen(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with parameters as buffers: same storage, no gradient, whatever the user's model asks for."""
    for name, parameter in list(graph.named_parameters(remove_duplicate=False)):
        owner_name, _, attribute = name.rpartition(".")
        owner = graph.get_submodule(owner_name)
        delattr(owner, attribute)
        owner.register_buffer(attribute, parameter.detach())
    return graph


def without_assertions(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph without nodes that only check, and without what only they needed."""
    for node in reversed(graph.graph.nodes):
        if node.target in _ASSERTIONS:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def module_of(node: fx.Node) -> str:
    """The name of the innermost module that a node stems from, empty for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def first_line(error: Exception) -> str:
    """The first line of an error's text: PyTorch's go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
