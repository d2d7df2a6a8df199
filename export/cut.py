"""Step 2, cut: one graph becomes a head and a tail.

The same cut serves twice. At a layer, it parts what leads to the activation from what depends on
it; at the seed of a gradient, it parts the forward pass from the backward pass. In both cases the
values that cross beside the cut point (skip connections; tensors that the backward pass reuses)
become inputs of the tail.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from camcore.errors import ExportError
from camcore.export.trace.graphs import outputs_of, returning

_sym_size = torch.ops.aten.sym_size.int


@dataclass(frozen=True)
class Cut:
    """The two sides of a cut.

    `head` takes the graph's inputs and returns `(*kept, *crossing)`; `tail` takes
    `(*cut points, *crossing)` and returns what the graph returned. `crossing` are example values
    (fake tensors, sizes) of what crosses, in order, and `batch_axes` tells which axis of each
    counts the batch, None where none does.
    """

    head: fx.GraphModule
    tail: fx.GraphModule
    crossing: tuple[Any, ...]
    batch_axes: tuple[int | None, ...]


def cut(module: fx.GraphModule, at: Sequence[fx.Node], kept: Sequence[fx.Node]) -> Cut:
    """Cut a graph at some of its values.

    Args:
        module: a functional graph.
        at: the values to cut at, none of which depends on another; their first axis is the batch.
            The tail is all that depends on any of them.
        kept: head values that the head returns first.

    Weights, and values made of weights alone, never cross: each side makes its own from the one
    stored tensor. Nor do sizes that count the batch: the tail reads them off its own inputs, since
    its batch may be another one (K gradients an image).

    Raises:
        ExportError: a size that the tail needs has no simple relation to the batch.
    """
    graph = module.graph
    crossing = crossing_of(graph, at)
    tail = _Copy(module, inputs=[*at, *crossing], recount=at[0])
    for node in _behind(graph, at):
        tail.copy(node)
    placeholders = [
        node
        for node in graph.nodes
        if node.op == "placeholder" and (node not in at or node in kept)
    ]
    head = _Copy(module, inputs=placeholders)
    head.output([*kept, *crossing])
    values = tuple(value.meta["val"] for value in crossing)
    batch = batch_symbol(at[0].meta["val"])
    axes = tuple(_batch_axis(value, batch) for value in values)
    return Cut(head.finish(), tail.finish(), values, axes)


def crossing_of(graph: fx.Graph, at: Sequence[fx.Node]) -> list[fx.Node]:
    """The values that cross beside the points of a cut, in order."""
    in_tail, constant = dependents(at), _constants(graph)
    crossing: dict[fx.Node, None] = {}
    needed = [value for node in _behind(graph, at) for value in node.all_input_nodes]
    for value in needed:
        if value in in_tail or value in constant:
            continue
        if not _counts_batch(value, at[0]):
            crossing[value] = None
        elif value.target is not _sym_size:
            # The tail computes it anew, and needs what goes into it.
            needed.extend(value.all_input_nodes)
        else:
            frames = _frames(value, at[0])
            if frames is not None and at[0] not in ancestors(frames):
                crossing[frames] = None
    return list(crossing)


def _per_row(size: fx.Node, at: fx.Node) -> Any:
    """How many times the batch, as that of a value, a size is."""
    return size.meta["val"].node.expr / batch_symbol(at.meta["val"])


def _frames(size: fx.Node, at: fx.Node) -> fx.Node | None:
    """What a size that counts the batch counts besides, if it is the free length of an axis of the
    graph's inputs: of a video whose frames have a row each, T of B * T.

    It is made a value of the graph, unless it is one.
    """
    factor, graph = _per_row(size, at), size.graph
    if factor.is_Integer:
        return None
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta["val"]
        if _divides(value, factor):
            found: fx.Node = node
            return found
        lengths = value.shape if isinstance(value, Tensor) else ()
        for axis, length in enumerate(lengths):
            if axis and _divides(length, factor):
                return _size_of(node, axis)
    return None


def _size_of(node: fx.Node, axis: int) -> fx.Node:
    """The length of an axis as a value of the graph."""
    known = [user for user in node.users if user.target is _sym_size and user.args[1] == axis]
    if known:
        return known[0]
    first = next(other for other in node.graph.nodes if other.op != "placeholder")
    with node.graph.inserting_before(first):
        made = node.graph.call_function(_sym_size, (node, axis))
    made.meta["val"] = node.meta["val"].shape[axis]
    return made


def _divides(size: Any, factor: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool((factor / size.node.expr).is_Integer)


def _behind(graph: fx.Graph, at: Sequence[fx.Node]) -> list[fx.Node]:
    found = dependents(at)
    return [node for node in graph.nodes if node in found and node not in at]


def cut_with_inner(
    graph: fx.GraphModule, roots: Sequence[fx.Node], inner: Sequence[fx.Node]
) -> Cut:
    """The cut at the roots, with a tail that returns inner values behind its outputs."""
    with returning(graph, [*outputs_of(graph), *inner]):
        return cut(graph, at=roots, kept=roots)


def roots_first(nodes: Sequence[fx.Node]) -> tuple[list[int], int]:
    """The order of values in which those that depend on no other come first, and their number.

    A layer behind another one is a value inside the tail, which has its gradient all the same.
    """
    reached = {node: dependents([node]) for node in nodes}
    behind = [any(node in reached[other] for other in nodes if other is not node) for node in nodes]
    return sorted(range(len(nodes)), key=behind.__getitem__), behind.count(False)


def between(module: fx.GraphModule, start: fx.Node, ends: Sequence[fx.Node]) -> fx.GraphModule:
    """What leads from one value of a graph to others, which depend on it and on weights alone."""
    part = _Copy(module, inputs=[start])
    part.output(ends)
    return part.finish()


def constants_of(module: fx.GraphModule, nodes: Sequence[fx.Node]) -> list[Tensor]:
    """The values of nodes that depend on weights alone."""
    part = _Copy(module, inputs=[])
    part.output(nodes)
    with torch.no_grad():
        return list(part.finish()())


def repeat_batch(
    values: Sequence[Any], batch_axes: Sequence[int | None], times: int | torch.SymInt
) -> list[Any]:
    """Values with as many copies of the whole batch, one behind the other."""
    return [
        value
        if axis is None
        else value.repeat([times if a == axis else 1 for a in range(value.ndim)])
        for value, axis in zip(values, batch_axes, strict=True)
    ]


def _batch_axis(value: Any, batch: Any) -> int | None:
    if not isinstance(value, Tensor):
        return None
    return next((axis for axis, size in enumerate(value.shape) if counts(size, batch)), None)


def batch_symbol(value: Tensor) -> Any:
    """The symbol of the batch, read off a tensor whose first axis is the batch; None where a graph
    is of one batch alone.
    """
    size: Any = value.shape[0]
    return size.node.expr if isinstance(size, torch.SymInt) else None


def counts(size: Any, symbol: Any) -> bool:
    """Whether a size is symbolic and grows with the symbol, of which there may be none."""
    if symbol is None or not isinstance(size, torch.SymInt):
        return False
    return bool(size.node.expr.has(symbol))


def dependents(starts: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes themselves and all that is computed from any of them."""
    found = set(starts)
    for node in starts[0].graph.nodes:  # in topological order
        if any(value in found for value in node.all_input_nodes):
            found.add(node)
    return found


def ancestors(node: fx.Node) -> set[fx.Node]:
    """The node itself and all that it is computed from."""
    found, pending = {node}, [node]
    while pending:
        more = [value for value in pending.pop().all_input_nodes if value not in found]
        found.update(more)
        pending.extend(more)
    return found


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """Values that depend on no input of the graph."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        is_call = node.op == "call_function"
        if node.op == "get_attr" or (is_call and found.issuperset(node.all_input_nodes)):
            found.add(node)
    return found


def _counts_batch(node: fx.Node, at: fx.Node) -> bool:
    return counts(node.meta.get("val"), batch_symbol(at.meta["val"]))


class _Copy:
    """A graph under construction that takes over nodes of another one, with all they need.

    Sizes that count the batch and are read off tensors outside of it are read off its input
    `recount` instead.
    """

    def __init__(
        self, source: fx.GraphModule, inputs: Sequence[fx.Node], recount: fx.Node | None = None
    ) -> None:
        self._source = source
        self._recount = recount
        self._graph = fx.Graph()
        self._twin: dict[fx.Node, fx.Node] = {}
        for node in inputs:
            self._twin[node] = twin = self._graph.placeholder(node.name)
            twin.meta = dict(node.meta)

    def copy(self, node: fx.Node) -> fx.Node:
        """The node's twin in this graph, made, with what it depends on, unless it exists."""
        pending = [] if node in self._twin else [node]
        while pending:
            current = pending[-1]
            needs = [] if self._must_recount(current) else current.all_input_nodes
            missing = [value for value in needs if value not in self._twin]
            pending.extend(missing)
            if not missing:
                pending.pop()
                if current not in self._twin:
                    self._twin[current] = self._make(current)
        return self._twin[node]

    def output(self, nodes: Sequence[fx.Node]) -> None:
        self._graph.output(tuple(self.copy(node) for node in nodes))

    def finish(self) -> fx.GraphModule:
        self._graph.eliminate_dead_code()
        return fx.GraphModule(self._source, self._graph)

    def _must_recount(self, node: fx.Node) -> bool:
        return (
            self._recount is not None
            and node.target is _sym_size
            and node.args[0] not in self._twin
            and _counts_batch(node, self._recount)
        )

    def _make(self, node: fx.Node) -> fx.Node:
        if self._recount is None or not self._must_recount(node):
            return self._graph.node_copy(node, self._twin.__getitem__)
        factor = _per_row(node, self._recount)
        count = self._graph.call_function(_sym_size, (self._twin[self._recount], 0))
        frames = _frames(node, self._recount)
        if frames is not None:
            factor /= frames.meta["val"].node.expr
            count = self._graph.call_function(operator.mul, (count, self.copy(frames)))
        if not factor.is_Integer:
            raise ExportError(
                f"the model cannot be cut at {self._recount.name!r}: what follows needs the size "
                f"{node.meta['val']} of {node.args[0]}, which is no multiple of the batch"
            )
        if factor == 1:
            return count
        return self._graph.call_function(operator.mul, (count, int(factor)))
