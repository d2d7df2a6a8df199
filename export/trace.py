"""Step 1, trace: an eager model becomes one functional ATen graph."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from camcore.errors import ExportError, InputError

# Nodes that check and compute nothing. They do not export, and the written file is proven anyway.
_ASSERTIONS = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten.sym_constrain_range_for_size.default,
}


@dataclass(frozen=True)
class Trace:
    """A traced model.

    `graph` takes the images (B, C, H, W) and returns what the model returned; its weights are the
    model's own tensors, under their own names. Each node's `meta["nn_module_stack"]` tells the
    modules it came from. `dynamic_size` says whether height and width are free, `notes` why not.
    """

    graph: fx.GraphModule
    dynamic_size: bool
    notes: tuple[str, ...] = ()


def trace(model: nn.Module, example: Tensor, *, dynamic_size: bool | None = None) -> Trace:
    """Trace a model in eval mode.

    Args:
        model: a module that takes images and returns class scores (B, N); it is not changed.
        example: images of a shape that the model accepts, (B, C, H, W); only the shape matters.
        dynamic_size: True asks for free height and width, False fixes the example's, None frees
            them where the model allows it. The batch is always free.

    Raises:
        InputError: training mode, weights that are not finite, or no batch of images.
        ExportError: `torch.export` cannot trace the model, or not with the freedom asked for.
    """
    _check(model, example)
    images = two_images(example)
    reason = "on request"
    if dynamic_size is not False:
        try:
            _try_another_size(model, images)
            return Trace(_capture(model, images, free_size=True), dynamic_size=True)
        except Exception as error:
            if dynamic_size:
                raise ExportError(
                    "the model cannot be exported with free height and width: "
                    f"{first_line(error)}. Leave dynamic_size out, or set it to False"
                ) from error
            reason = f"because the model fixes them ({first_line(error)})"
    try:
        graph = _capture(model, images, free_size=False)
    except Exception as error:
        raise ExportError(f"torch.export cannot trace the model: {first_line(error)}") from error
    return Trace(graph, dynamic_size=False, notes=(f"height and width are fixed {reason}",))


def two_images(example: Tensor) -> Tensor:
    """An example batch of two: a batch of one would be traced as a constant."""
    return torch.cat([example[:1].detach()] * 2)


def _check(model: nn.Module, example: Tensor) -> None:
    modules = model.named_modules()
    training = [name or "the model itself" for name, module in modules if module.training]
    if training:
        raise InputError(
            f"the model is in training mode ({', '.join(training[:3])}): batch norm and dropout "
            "would answer differently each time. Call model.eval() first"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"the weights hold NaN or infinity in {name!r}; load sound weights first"
            )
    if example.ndim < 3 or not example.is_floating_point() or 0 in example.shape:
        raise InputError(
            f"example has shape {tuple(example.shape)} and dtype {example.dtype}, expected a batch "
            "of images (B, C, H, W) of a floating-point dtype"
        )


def _try_another_size(model: nn.Module, images: Tensor) -> None:
    """Run the model on larger images: `torch.export` may take a size for free that is not."""
    size = [length + 16 * axis for axis, length in enumerate(images.shape[2:], 1)]
    with torch.no_grad():
        model(images.new_zeros(*images.shape[:2], *size))


def _capture(model: nn.Module, example: Tensor, *, free_size: bool) -> fx.GraphModule:
    free = dict.fromkeys(range(2, example.ndim), Dim.DYNAMIC) if free_size else {}
    # The plain form of attention has gradient rules; the fused kernels have none.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        exported = torch.export.export(model, (example,), dynamic_shapes=({0: Dim.DYNAMIC} | free,))
        graph = exported.run_decompositions({}).module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    return without_assertions(_frozen(graph))


def _frozen(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with parameters as buffers: the same storage, but none asks for a gradient."""
    frozen = {id(parameter): parameter.detach() for parameter in graph.parameters()}
    for name, parameter in list(graph.named_parameters(remove_duplicate=False)):
        owner_name, _, attribute = name.rpartition(".")
        owner = graph.get_submodule(owner_name)
        delattr(owner, attribute)
        owner.register_buffer(attribute, frozen[id(parameter)])
    return graph


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


def module_of(node: fx.Node) -> str:
    """The name of the innermost module that a node stems from, empty for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def first_line(error: Exception) -> str:
    """The first line of an error's text: PyTorch's go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
