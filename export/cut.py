"""Step 2, cut: one graph becomes a head and a tail.

The same cut serves twice. At a layer, it parts what leads to the activation from what depends on it; at the seed of
a gradient, it parts the forward pass from the backward pass. In both cases the values that cross beside the cut
point (skip connections; tensors that the backward pass reuses) become inputs of the tail.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from camcore.errors import ExportError

_sym_size = torch.ops.aten.sym_size.int


@dataclass(frozen=True)
class Cut:
    """The two sides of a cut.

    `head` takes the graph's inputs and returns `(*kept, *crossing)`; `tail` takes `(cut point, *crossing)` and
    returns what the graph returned. `crossing` are example values (fake tensors, sizes) of what crosses, in order.
    """

    head: fx.GraphModule
    tail: fx.GraphModule
    crossing: tuple[Any, ...]


def cut(module: fx.GraphModule, at: fx.Node, kept: Sequence[fx.Node]) -> Cut:
    """Cut a graph at one of its values.

    Args:
        module: a functional graph.
        at: the value to cut at; its first axis is the batch. Everything that depends on it is the tail.
        kept: head values that the head returns first.

    Weights, and values made of weights alone, never cross: each side makes its own from the one stored tensor.
    Sizes that count the batch are computed anew in the tail, since its batch may differ (K gradients an image).
    """
    in_tail = _dependents(at)
    constant = _constants(module.graph)
    tail = _Copy(module, batch_of=at)
    tail.placeholder(at)
    crossing: list[fx.Node] = []
    dependent = [node for node in module.graph.nodes if node in in_tail and node is not at]
    for value in dict.fromkeys(value for node in dependent for value in node.all_input_nodes):
        if value not in in_tail and value not in constant and not _counts_batch(value, at):
            crossing.append(value)
            tail.placeholder(value)
    for node in dependent:
        tail.copy(node)

    head = _Copy(module, batch_of=at)
    for node in module.graph.nodes:
        if node.op == "placeholder" and node is not at:
            head.placeholder(node)
    head.output([head.copy(value) for value in (*kept, *crossing)])
    return Cut(head.finish(), tail.finish(), tuple(value.meta["val"] for value in crossing))


def _dependents(start: fx.Node) -> set[fx.Node]:
    found = {start}
    for node in start.graph.nodes:  # in topological order
        if any(value in found for value in node.all_input_nodes):
            found.add(node)
    return found


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """Values that depend on no input of the graph."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function" and all(value in found for value in node.all_input_nodes)
        ):
            found.add(node)
    return found


def batch_size(value: Any) -> Any:
    """The symbol of the batch, read off a tensor whose first axis is the batch."""
    size = value.shape[0]
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _counts_batch(value: fx.Node, at: fx.Node) -> bool:
    size = value.meta.get("val")
    return isinstance(size, torch.SymInt) and size.node.expr.has(batch_size(at.meta["val"]))


class _Copy:
    """A graph under construction that takes over nodes of another one, with what they need."""

    def __init__(self, source: fx.GraphModule, batch_of: fx.Node) -> None:
        self._source = source
        self._at = batch_of
        self._graph = fx.Graph()
        self._new: dict[fx.Node, fx.Node] = {}

    def placeholder(self, node: fx.Node) -> None:
        self._new[node] = new = self._graph.placeholder(node.name)
        new.meta = dict(node.meta)

    def copy(self, node: fx.Node) -> fx.Node:
        """The node's twin in the new graph, made with all it depends on where it does not exist yet."""
        pending = [node]
        while pending:
            current = pending[-1]
            missing = [value for value in self._needs(current) if value not in self._new]
            if missing:
                pending.extend(missing)
                continue
            pending.pop()
            if current not in self._new:
                self._new[current] = self._make(current)
        return self._new[node]

    def output(self, values: Iterable[fx.Node]) -> None:
        self._graph.output(tuple(values))

    def finish(self) -> fx.GraphModule:
        self._graph.eliminate_dead_code()
        return fx.GraphModule(self._source, self._graph)

    def _is_batch_leaf(self, node: fx.Node) -> bool:
        """A size that counts the batch and is read off a tensor of the other side."""
        return (
            self._at in self._new
            and node.target is _sym_size
            and node.args[0] not in self._new
            and _counts_batch(node, self._at)
        )

    def _needs(self, node: fx.Node) -> list[fx.Node]:
        return [] if self._is_batch_leaf(node) else node.all_input_nodes

    def _make(self, node: fx.Node) -> fx.Node:
        if not self._is_batch_leaf(node):
            return self._graph.node_copy(node, lambda value: self._new[value])
        factor = node.meta["val"].node.expr / batch_size(self._at.meta["val"])
        if not factor.is_Integer:
            raise ExportError(
                f"the size {node.meta['val']} of {node.args[0]} is no multiple of the batch; the model cannot be cut "
                f"at {self._at.name!r}"
            )
        batch = self._graph.call_function(_sym_size, (self._new[self._at], 0))
        return batch if factor == 1 else self._graph.call_function(operator.mul, (batch, int(factor)))
