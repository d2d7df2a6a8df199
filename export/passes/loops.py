"""Loops: many passes, a chunk of them at a time, in memory that grows with the chunk alone.

Eagerly a loop is Python's. In an exported graph it is one `scan`, which becomes ONNX's Scan and a
loop of TorchScript's, with the step in the file once.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan_op
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_flatten, tree_unflatten

Size = int | torch.SymInt
Step = Callable[[Any, Tensor], Tensor]


class Resumed(NamedTuple):
    """A loop that goes on where another run of it ended, or begins: some of its steps, and what
    came of all others, zeros where nothing has yet.

    `steps` are the numbers of the chunks that are due, (r,) int64, each from 0 to
    `number_of_steps` - 1 and none of them done before; `state` is of the shape of the loop's
    result.
    """

    steps: Tensor
    state: Tensor


def number_of_steps(count: Size, chunk: int) -> Size:
    """The number of chunks that a loop over `count` numbers takes."""
    chunk = _with_least_left_over(count, chunk)
    return (count + chunk - 1) // chunk


def stack_chunks(
    step: Step, values: Any, count: Size, chunk: int, resumed: Resumed | None = None
) -> Tensor:
    """What a step makes of the numbers 0 to count - 1, (count, ...).

    Args:
        step: takes `values` and numbers (chunk,), and returns (chunk, ...). The last numbers of the
            last chunk may be `count` and more; what the step makes of those is dropped.
        values: tensors and sizes, in tuples and dictionaries. All that the step needs has to be
            among them, weights too: a loop in a graph sees nothing else.
        resumed: take these steps alone; the result holds theirs and those before.
    """
    chunks = _chunks(values, count, chunk, resumed)
    if torch.compiler.is_exporting():
        # A scan carries a value along, of which there is none.
        nothing = torch.zeros(1, device=chunks.device)
        _, found = _scan(
            lambda carried, *given: (carried.clone(), step(*given)), values, nothing, chunks
        )
    else:
        found = torch.stack([step(values, numbers) for numbers in chunks.unbind()])
    if resumed is None:
        return found.flatten(0, 1).narrow(0, 0, count)
    assert isinstance(count, int)
    everyone = found.new_zeros(number_of_steps(count, chunk), *found.shape[1:])
    placed = everyone.index_copy(0, resumed.steps, found)
    return placed.flatten(0, 1).narrow(0, 0, count) + resumed.state


def sum_chunks(
    step: Step,
    values: Any,
    count: Size,
    chunk: int,
    start: Tensor,
    resumed: Resumed | None = None,
) -> Tensor:
    """The sum of what a step makes of each chunk of the numbers 0 to count - 1.

    As `stack_chunks`, but for a step that adds its chunk up itself, and returns the shape of
    `start`, which is where the sum begins, unless it is resumed. Numbers of `count` and more must
    add nothing.
    """
    chunks = _chunks(values, count, chunk, resumed)
    if resumed is not None:
        start = resumed.state
    if not torch.compiler.is_exporting():
        return sum((step(values, numbers) for numbers in chunks.unbind()), start)

    def add(total: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        # A scan stacks something of every step, of which there is nothing here.
        return total + step(*given), given[-1].clone()

    total, _ = _scan(add, values, start, chunks)
    return total


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights by name, to be among a step's `values`; `torch.func.functional_call` puts
    them back.
    """
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _chunks(values: Any, count: Size, chunk: int, resumed: Resumed | None) -> Tensor:
    """The numbers from 0, as many as fill chunks, (number of chunks, chunk); or those due."""
    leaves, _ = tree_flatten(values)
    device = next(leaf.device for leaf in leaves if isinstance(leaf, Tensor))
    rows = number_of_steps(count, chunk)
    chunk = _with_least_left_over(count, chunk)
    if resumed is not None:
        return resumed.steps[:, None] * chunk + torch.arange(chunk, device=device)
    return torch.arange(rows * chunk, device=device).reshape(rows, chunk)


def _with_least_left_over(count: Size, chunk: int) -> int:
    """The chunk, or one down to half of it that fills its last step better.

    >>> _with_least_left_over(1025, 32)  # 41 steps of 25, not 33 of 32
    25
    """
    if not isinstance(count, int):
        return chunk
    most = min(chunk, count)
    sizes = range(most, (most - 1) // 2, -1)
    return min(sizes, key=lambda size: -count % size)


def _scan(
    combine: Callable[[Tensor, Any, Tensor], tuple[Tensor, Tensor]],
    values: Any,
    start: Tensor,
    chunks: Tensor,
) -> tuple[Tensor, Tensor]:
    """The operator itself: its public form would have TorchDynamo read the step's code, which
    stumbles over symbolic sizes, where plain tracing does not.
    """
    leaves, structure = tree_flatten(values)
    # Each once: two parts of a model may share a weight, and a scan's inputs must not be the same.
    traced = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor | torch.SymInt)}

    def flat(carried: Tensor, numbers: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        inside = dict(zip(traced, given, strict=True))
        filled = [inside.get(id(leaf), leaf) for leaf in leaves]
        return combine(carried, tree_unflatten(filled, structure), numbers)

    total, found = scan_op(flat, [start], [chunks], _apart(traced.values()))
    return total, found


def _apart(values: Iterable[Tensor | torch.SymInt]) -> tuple[Tensor | torch.SymInt, ...]:
    """The values, with copies of those that share another one's memory, as slices of a tensor do.

    The export to ONNX refuses a scan of such inputs.
    """
    storages: set[StorageWeakRef] = set()
    apart: list[Tensor | torch.SymInt] = []
    for value in values:
        if isinstance(value, Tensor):
            storage = StorageWeakRef(value.untyped_storage())  # type: ignore[no-untyped-call]
            value = value.clone() if storage in storages else value
            storages.add(storage)
        apart.append(value)
    return tuple(apart)
