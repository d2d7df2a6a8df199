"""Sizes: whether height and width of a model may be free."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from camcore.errors import ExportError
from camcore.export.trace.graphs import module_of

# Layers that take one step after the other. Without a gradient rule of their own they are unrolled.
_RECURRENT = {
    torch.ops.aten.lstm,
    torch.ops.aten.gru,
    torch.ops.aten.rnn_tanh,
    torch.ops.aten.rnn_relu,
}

# By how much each side grows to see what a model and its graph make of other sizes: the first
# pleases patches and strides, the second leaves remainders.
_GROWTHS = (16, 32, 48), (7, 9, 11)

# How many operations tell a size from the image's. A handful do for most models; padding by
# TensorFlow's rule takes three times as many from stride to stride, and hours to trace.
_INTRICATE = 30


def try_another_size(
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


def check_steps(graph: fx.GraphModule) -> None:
    """Raises an `ExportError` where a recurrent layer takes a free number of steps."""
    for node in graph.graph.nodes:
        if getattr(node.target, "overloadpacket", None) in _RECURRENT:
            sequence, batch_first = node.args[0].meta["val"], node.args[-1]
            if isinstance(sequence.shape[1 if batch_first else 0], torch.SymInt):
                raise ExportError(
                    f"{module_of(node) or 'it'} is recurrent, and as many steps are written as the "
                    "example's size makes"
                )


def check_other_sizes(
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
def simple_sizes() -> Iterator[None]:
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
