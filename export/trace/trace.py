"""Step 1, trace: an eager model becomes one functional ATen graph."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from inspect import signature
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo import OptimizedModule
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from camcore.errors import CamcoreError, ExportError, InputError

# Nodes that check and compute nothing. They do not export, and the written file is proven anyway.
_ASSERTIONS = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten.sym_constrain_range_for_size.default,
}

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

# Layers that take one step after the other. Without a gradient rule of their own they are unrolled.
_RECURRENT = {
    torch.ops.aten.lstm,
    torch.ops.aten.gru,
    torch.ops.aten.rnn_tanh,
    torch.ops.aten.rnn_relu,
}

# A size that nothing else in a model has.
_BATCH = 23
# By how much each side grows to see what a model and its graph make of other sizes: the first
# pleases patches and strides, the second leaves remainders.
_GROWTHS = (16, 32, 48), (7, 9, 11)

# How many operations tell a size from the image's. A handful do for most models; padding by
# TensorFlow's rule takes three times as many from stride to stride, and hours to trace.
_INTRICATE = 30


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
) -> Trace:
    """Trace a model in eval mode.

    Args:
        model: a module that takes images, and maybe more; it is not changed.
        example: inputs that the model accepts, images first; only the shapes matter. The first axis
            of each is the batch.
        dynamic_size: True asks for free height and width, False fixes the example's, None frees
            them where the model allows it. The batch is always free.
        root: the submodule that names of modules are relative to.

    Raises:
        InputError: training mode, weights that are not finite, or no batch of images.
        ExportError: `torch.export` cannot trace the model, or not with the freedom asked for.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    user_model = model.get_submodule(root) if root else model
    check_model(user_model)
    _check_example(user_model, inputs)
    inputs = tuple(map(example_batch, inputs))
    axes = range(2, inputs[0].ndim)
    size = tuple(inputs[0].shape[axis] for axis in axes)
    reason = "on request"
    if dynamic_size is not False:
        try:
            _try_another_size(model, inputs, axes, attention=dynamic_size is True)
            with nullcontext() if dynamic_size else _simple_sizes():
                graph = _relative_to(root, _capture(model, inputs, free=axes))
            _check_steps(graph)
            _check_other_sizes(model, graph, inputs, axes)
            return Trace(graph, size, dynamic_size=True)
        except Exception as error:
            if dynamic_size:
                raise ExportError(
                    "the model cannot be exported with free height and width: "
                    f"{first_line(error)}. Leave dynamic_size out, or set it to False"
                ) from error
            reason = f"because the model fixes them: {first_line(error)}"
    try:
        graph = _relative_to(root, _capture(model, inputs, free=()))
    except CamcoreError:
        raise
    except Exception as error:
        raise ExportError(f"torch.export cannot trace the model: {_reason(error)}") from error
    notes = (f"height and width are fixed {reason}",)
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


def check_model(model: nn.Module) -> None:
    """Raises an `InputError` for a model that cannot be traced as it is.

    It is compiled or scripted, in training mode, or has weights that are not finite, that are not
    there, or that autograd may not touch.
    """
    if isinstance(model, OptimizedModule):
        raise InputError("the model is compiled; give the one inside, model._orig_mod")
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"the model is {type(model).__name__}, expected a torch.nn.Module that is not scripted"
        )
    modules = model.named_modules()
    training = [name or "the model itself" for name, module in modules if module.training]
    if training:
        raise InputError(
            f"the model is in training mode ({', '.join(training[:3])}): batch norm and dropout "
            "would answer differently each time. Call model.eval() first"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise InputError(f"{name!r} is on the meta device, without values; load weights first")
        if tensor.is_inference():
            raise InputError(
                f"{name!r} was made under torch.inference_mode(), so that no gradient passes it; "
                "explain a copy that is made outside, copy.deepcopy(model)"
            )
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise InputError(
                f"the weights hold NaN or infinity in {name!r}; load sound weights first"
            )


def _is_finite(tensor: Tensor) -> bool:
    """By the extremes, which NaN would be as well: one pass, and no second tensor of that size."""
    return tensor.numel() == 0 or all(map(math.isfinite, torch.aminmax(tensor.detach())))


def _check_example(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    image, *others = inputs
    if image.ndim < 3 or not image.is_floating_point() or 0 in image.shape:
        raise InputError(
            f"example has shape {tuple(image.shape)} and dtype {image.dtype}, expected a batch "
            "of images (B, C, H, W) of a floating-point dtype"
        )
    for other in others:
        if other.ndim < 1 or other.shape[0] != image.shape[0]:
            raise InputError(
                f"an input beside the images has shape {tuple(other.shape)}, expected a first axis "
                f"of {image.shape[0]}, the batch"
            )
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise InputError(
            f"the model does not take the example, of shape {shapes} and dtype {image.dtype}: "
            f"{first_line(error)}. Expected images (B, C, H, W) and, in a tuple, what else it takes"
        ) from error


def _try_another_size(
    model: nn.Module, inputs: tuple[Tensor, ...], axes: range, *, attention: bool
) -> None:
    """Run the model on larger images: `torch.export` may take a size for free that is not.

    Without `attention` a model that has any is refused. Its windows and positions are usually made
    for one size, and where they are not, tracing them for every size takes minutes (Swin: five).
    """
    with torch.no_grad(), _AttentionWatch() as watch:
        model(*_grown(inputs, axes, _GROWTHS[0]))
    if watch.seen and not attention:
        raise ExportError("it has attention; dynamic_size=True tries to free them nevertheless")


def _check_steps(graph: fx.GraphModule) -> None:
    """Raises an `ExportError` where a recurrent layer takes a free number of steps."""
    for node in graph.graph.nodes:
        if getattr(node.target, "overloadpacket", None) in _RECURRENT:
            sequence, batch_first = node.args[0].meta["val"], node.args[-1]
            if isinstance(sequence.shape[1 if batch_first else 0], torch.SymInt):
                raise ExportError(
                    f"{module_of(node) or 'it'} is recurrent, and as many steps are written as the "
                    "example's size makes"
                )


def _check_other_sizes(
    model: nn.Module, graph: fx.GraphModule, inputs: tuple[Tensor, ...], axes: range
) -> None:
    """Raises an `ExportError` where the graph answers otherwise than the model.

    Where a model asks for the remainder of its image's size (MobileNetV1 of `transformers`, to
    pad), `torch.export` takes the example's for that of every size.
    """
    for growth in _GROWTHS:
        others = _grown(inputs, axes, growth)
        with torch.no_grad():
            try:
                expected = model(*others)
            except Exception:  # a size that is not for this model
                continue
            given = graph(*others)
        for ours, theirs in zip(_tensors(given), _tensors(expected), strict=True):
            if not _agree(ours, theirs):
                size = " x ".join(str(side) for side in others[0].shape[2:])
                raise ExportError(f"traced for every size, it answers otherwise at {size}")


def _grown(inputs: tuple[Tensor, ...], axes: range, growth: tuple[int, ...]) -> tuple[Tensor, ...]:
    """One larger image, and its other inputs."""
    images, *others = inputs
    shape = [1, *images.shape[1:]]
    for axis, more in zip(axes, growth, strict=False):
        shape[axis] += more
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(images), *[other[:1] for other in others]


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two results are the same but for rounding."""
    if ours.shape != theirs.shape or not theirs.numel():
        return ours.shape == theirs.shape
    ours, theirs = ours.double(), theirs.double()
    bound = 1e-3 * float(theirs.abs().max())
    return torch.allclose(ours, theirs, rtol=0.0, atol=bound, equal_nan=True)


@contextmanager
def _simple_sizes() -> Iterator[None]:
    """Refuses modules whose output's size is too intricate a function of the image's."""

    def check(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        shape: Sequence[Any] = output.shape
        sizes = [size.node.expr for size in shape if isinstance(size, torch.SymInt)]
        if any(size.count_ops() > _INTRICATE for size in sizes):
            raise ExportError(
                f"the sizes in it, from {type(module).__name__} on, follow from the image's in too "
                "intricate a way, as by TensorFlow's padding; dynamic_size=True tries to free them "
                "nevertheless"
            )

    hook = register_module_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()


class _AttentionWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether attention is computed while it lasts: a softmax of more than class scores."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        rank = args[0].ndim if args and isinstance(args[0], Tensor) else 0
        if "scaled_dot_product" in name or (name.endswith("softmax") and rank > 2):
            self.seen = True
        return func(*args, **(kwargs or {}))


def _capture(model: nn.Module, inputs: tuple[Tensor, ...], *, free: Sequence[int]) -> Any:
    batch = {0: Dim.DYNAMIC}
    shapes: tuple[Any, ...] = (batch | dict.fromkeys(free, Dim.DYNAMIC),)
    if len(inputs) > 1:
        others = tuple(batch for _ in inputs[1:])
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
        known = torch.export.default_decompositions()
        rules = {loss: known[loss] for loss in _LOSSES} | _OWN_FORMS
        graph = exported.run_decompositions(rules).module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    return without_assertions(_frozen(graph))


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


def _relative_to(root: str, graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with the names of modules, in what its nodes know, relative to a submodule."""
    if root:
        for node in graph.graph.nodes:
            stack = node.meta.get("nn_module_stack", {})
            node.meta["nn_module_stack"] = {
                call: ("" if name == root else name.removeprefix(f"{root}."), kind)
                for call, (name, kind) in stack.items()
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


def first_line(error: BaseException) -> str:
    """The first line of an error's text: PyTorch's go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def sizes_of(node: fx.Node) -> tuple[int, ...]:
    """The sizes of a value at the example image, none for what is no tensor."""
    value = node.meta.get("val")
    return tuple(map(hint, value.shape)) if isinstance(value, Tensor) else ()


def hint(size: int | torch.SymInt) -> int:
    """The size at the example image."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else size  # type: ignore[arg-type]
