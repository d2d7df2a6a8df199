"""Sizes: whether height and width of a model may be free."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from camcore.errors import ExportError
from camcore.export.trace.graphs import module_of, operator_name, per_axis

# Layers that take one step after the other. Without a gradient rule of their own they are unrolled.
_RECURRENT = {
    torch.ops.aten.lstm,
    torch.ops.aten.gru,
    torch.ops.aten.rnn_tanh,
    torch.ops.aten.rnn_relu,
}

_POOLS = {
    getattr(torch.ops.aten, name): rank
    for rank in (1, 2, 3)
    for name in (f"max_pool{rank}d", f"avg_pool{rank}d", f"max_pool{rank}d_with_indices")
    if hasattr(torch.ops.aten, name)
}

# By how much each side grows to see what a model and its graph make of other sizes: the first
# pleases patches and strides, the second leaves remainders.
_GROWTHS = (16, 32, 48), (7, 9, 11)

# How many times the example's a side may be for a condition on it to be seen to fail, a little more
# for what comes out even.
_FACTORS = (0.5, 1, 1.5, 2, 4, 8)
_BATCHES = (1, 2, 3, 5, 8, 16, 24, 32, 48, 64, 128, 256)

# How many operations tell a size from the image's. A handful do for most models; padding by
# TensorFlow's rule takes three times as many from stride to stride, and hours to trace.
_INTRICATE = 30


def try_another_size(model: nn.Module, inputs: tuple[Tensor, ...], *, attention: bool) -> None:
    """Run the model on larger images: `torch.export` may take a size for free that is not.

    Without `attention` a model that has any is refused. Its windows and positions are usually made
    for one size, and where they are not, tracing them for every size takes minutes (Swin: five).
    """
    with torch.no_grad(), _AttentionWatch() as watch:
        model(*_resized(inputs, 1, _grown(inputs[0], _GROWTHS[0])))
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


def check_pools(graph: fx.GraphModule) -> None:
    """Raises an `ExportError` where a pool's last window may begin in the padding behind the map.

    PyTorch leaves such a window out, which its rule for free sizes does not.
    """
    for node in graph.graph.nodes:
        rank = _POOLS.get(getattr(node.target, "overloadpacket", None))
        if rank is None:
            continue
        of_average = "avg" in operator_name(node)
        defaults: tuple[Any, ...] = ((), 0, False) if of_average else ((), 0, 1, False)
        kernel, *given = node.args[1:]
        values: list[Any] = [*given, *defaults[len(given) :]]
        stride, padding, dilation = values[0] or kernel, values[1], 1 if of_average else values[2]
        to_the_end = values[2 if of_average else 3]
        each = [_per_axis(value, rank) for value in (kernel, stride, padding, dilation)]
        for k, s, p, d in zip(*each, strict=True):
            if to_the_end and p + s > d * (k - 1) + 1:
                raise ExportError(
                    f"{module_of(node) or 'it'} pools to the end (ceil_mode) with windows that may "
                    "begin in the padding, of which there are more or fewer by the size"
                )


def _per_axis(value: Any, rank: int) -> list[int]:
    return per_axis([value] if isinstance(value, int) else value, rank)


@dataclass(frozen=True)
class Conditions:
    """What a trace took for granted of the image's shape, for it holds for the example's.

    `guards` are `sympy` expressions of `symbols`, one for each axis of the image, None where the
    size is fixed.
    """

    guards: tuple[Any, ...]
    symbols: tuple[Any, ...]

    def broken_by(self, shape: Sequence[int]) -> list[Any]:
        """Those that do not hold for a shape."""
        known = {
            symbol: size
            for symbol, size in zip(self.symbols, shape, strict=True)
            if symbol is not None
        }
        return [guard for guard in self.guards if guard.subs(known) == False]  # noqa: E712 (sympy's)


def conditions_of(program: ExportedProgram) -> Conditions:
    """The conditions under which a program was traced; its first input is the image."""
    name = program.graph_signature.user_inputs[0]
    (image,) = [n for n in program.graph.find_nodes(op="placeholder") if n.name == name]
    shape = image.meta["val"].shape
    free = [size for size in shape if isinstance(size, torch.SymInt)]
    known = free[0].node.shape_env if free else None
    guards = [] if known is None else [guard.expr for guard in known.guards]
    symbols = [size.node.expr if isinstance(size, torch.SymInt) else None for size in shape]
    return Conditions(tuple(guards), tuple(symbols))


def check_other_sizes(
    model: nn.Module, graph: fx.GraphModule, inputs: tuple[Tensor, ...], conditions: Conditions
) -> None:
    """Raises an `ExportError` where the graph answers otherwise than the model for another size.

    Where a model asks for the remainder of its image's size (MobileNetV1 of `transformers`, to
    pad), `torch.export` takes the example's for that of every size; where it goes another way for
    large images, the one that the example goes. Tried are two sizes near the example's, and for
    each condition the smallest image that breaks it.
    """
    image = inputs[0]
    sides = [
        [*{round(size * factor) + odd for factor in _FACTORS for odd in (0, 1)}]
        for size in image.shape[2:]
    ]
    far = sorted(product(*sides), key=math.prod)
    broken = _first_to_break(conditions, [(1, image.shape[1], *size) for size in far])
    near = [_grown(image, growth) for growth in _GROWTHS]
    for size in [*near, *(shape[2:] for shape in broken)]:
        if not _answers_alike(model, graph, _resized(inputs, 1, size)):
            told = " x ".join(map(str, size))
            raise ExportError(f"traced for every size, it answers otherwise at {told}")


def check_batches(
    model: nn.Module, graph: fx.GraphModule, inputs: tuple[Tensor, ...], conditions: Conditions
) -> None:
    """Raises an `ExportError` where the graph answers otherwise than the model for another batch.

    Tried are a batch of one and the smallest batches that break a condition of the trace.
    """
    _, *shape = inputs[0].shape
    of_batch = [guard for guard in conditions.guards if guard.has(conditions.symbols[0])]
    conditions = replace(conditions, guards=tuple(of_batch))
    tried = _first_to_break(conditions, [(batch, *shape) for batch in _BATCHES])
    for batch in dict.fromkeys([1, *(batch for batch, *_ in tried)]):
        if not _answers_alike(model, graph, _resized(inputs, batch, shape[1:])):
            raise ExportError(
                f"the model goes another way for a batch of {batch} than for one of "
                f"{len(inputs[0])}, and a file takes batches of any size: wrap the model in a "
                "module that goes one way"
            )


def _first_to_break(
    conditions: Conditions, shapes: Iterable[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Of shapes in order, those that are the first to break some condition."""
    found, left = [], conditions
    for shape in shapes:
        broken = left.broken_by(shape)
        if broken:
            found.append(shape)
            left = replace(left, guards=tuple(set(left.guards) - set(broken)))
    return found


def _answers_alike(model: nn.Module, graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> bool:
    """Whether graph and model answer alike, where both answer: others are not for them."""
    with torch.no_grad():
        try:
            expected = model(*map(torch.clone, inputs))
            given = graph.forward(*inputs)  # without the hook that insists on the trace's sizes
        except Exception:  # of whatever the model raises
            return True
    return all(map(_agree, _tensors(given), _tensors(expected)))


def _grown(images: Tensor, growth: tuple[int, ...]) -> tuple[int, ...]:
    """The size of larger images."""
    return tuple(side + more for side, more in zip(images.shape[2:], growth, strict=False))


def _resized(inputs: tuple[Tensor, ...], batch: int, size: Sequence[int]) -> tuple[Tensor, ...]:
    """Random images of a size, so many of them, and as many rows of the other inputs."""
    images, *others = inputs
    shape = (batch, images.shape[1], *size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    rows = [torch.cat([other] * (1 + batch // len(other)))[:batch] for other in others]
    return noise.to(images), *rows


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
