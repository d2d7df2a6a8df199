"""Origins: where the score of a detection came from.

Whatever a detector does behind its last products (convolutions, linear layers), it gathers: it
flattens, sorts, thresholds and picks. Numbers that are pushed through the same gathers in place of
the scores tell of each detection which number of which product it stems from.
"""

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from camcore.errors import ExportError
from camcore.export.trace.graphs import module_of, operator_name, shape_of

aten = torch.ops.aten

# What a detector's classifier ends with.
PRODUCTS = {"conv2d", "convolution", "linear", "addmm", "mm", "matmul", "bmm"}

# A number goes through them one by one: its id stays what it is.
_POINTWISE = {
    *("sigmoid", "softmax", "_softmax", "sqrt", "exp", "clamp", "relu", "mul", "add", "sub", "div"),
    *("clone", "detach", "alias", "_to_copy", "contiguous"),
}

# They move numbers to other places, ids alike.
MOVES = {
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t"),
    *("unsqueeze", "squeeze", "expand", "select", "slice", "unbind", "split", "split_with_sizes"),
    *("index", "index_select", "gather", "masked_select"),
}

VIEWS = {"view", "_unsafe_view"}

# Beside scores, they are no numbers of an image.
_CONSTANTS = {"full", "zeros", "ones", "full_like", "zeros_like", "ones_like", "scalar_tensor"}

# They sort or pick by the scores, and say which: `(values, indices)`, with their axis's place.
_SORTS = {"topk": 2, "sort": 1, "max": 1}


# The ids of a product's numbers begin at so many times its place among the products. The image's
# size may decide how many numbers a product has; it is fewer.
APART = 2**40


class Followed(NamedTuple):
    """Of each detection the ids (D, T) of the numbers that what is explained of it is made of, and
    how much each moves it, `slopes` (D, T): new values of the graph. `roots` are the products whose
    numbers these are: an id is `APART` times the root's place, and the number's in its memory.
    """

    ids: fx.Node
    slopes: fx.Node
    roots: list[fx.Node]


def find_origins(graph: fx.Graph, scores: fx.Node) -> Followed:
    """The one number that each of the scores (D,) stems from, T = 1; it is explained as it is, with
    a slope of 1.

    Raises:
        ExportError: an operator on the way neither moves numbers nor takes them one by one.
    """
    origins = Ids(graph)
    ids = origins.of(scores)
    with graph.inserting_before(graph.output_node()):
        ids = graph.call_function(aten.unsqueeze.default, (ids, 1))
        ones = graph.call_function(aten.ones_like.default, (scores,))
        slopes = graph.call_function(aten.unsqueeze.default, (ones, 1))
    return Followed(ids, slopes, origins.roots)


class Ids:
    """Nodes of ids beside those of numbers, each made once; `roots` are what they count."""

    def __init__(self, graph: fx.Graph) -> None:
        self.roots: list[fx.Node] = []
        self._graph = graph
        self._made: dict[fx.Node, fx.Node] = {}

    def of(self, node: fx.Node) -> fx.Node:
        if node not in self._made:
            self._made[node] = self._make(node)
        return self._made[node]

    def _make(self, node: fx.Node) -> fx.Node:
        name = operator_name(node)
        if node.target is operator.getitem:
            return self._item(node)
        if name in PRODUCTS:
            return self._root(node)
        if name == "select" and operator_name(_nodes(node.args[:1])[0]) == "stack":
            picked = _picked(node)
            if picked is not None:
                return self.of(picked)
        if name in ("cat", "stack"):
            parts = [self.of(part) for part in _nodes(node.args[0])]
            return self._call(node, node.target, (parts, *node.args[1:]))
        if name == "slice":
            narrowed = slice_of_part(node)
            if narrowed is not None:
                part, moves = narrowed
                ids = self.of(part)
                for target, args in moves:
                    ids = self._call(ids, target, (ids, *args))
                return ids
        if name == "where":
            return self._one_of(node, _nodes(node.args[1:3]))
        if name in _POINTWISE:
            # A factor that is broadcast, as FCOS's centre-ness, is no score of a class.
            return self._one_of(node, [each for each in node.all_input_nodes if _like(each, node)])
        if name in MOVES:
            (source,) = _nodes(node.args[:1])
            # Ids need not lie in memory as the scores do.
            target = aten.reshape.default if name in VIEWS else node.target
            return self._call(node, target, (self.of(source), *node.args[1:]), node.kwargs)
        raise _lost_at(node, "it neither moves numbers nor takes them one by one")

    def _one_of(self, node: fx.Node, sources: list[fx.Node]) -> fx.Node:
        """The ids of what an operator takes one by one, which must be one number alone."""
        found = {self.of(each) for each in sources if operator_name(each) not in _CONSTANTS}
        if len(found) != 1:
            raise _lost_at(
                node,
                f"it mixes {len(found)} numbers, and a detection is explained by one. Return one "
                "of them, or what one convolution or linear layer makes of both",
            )
        return found.pop()

    def _item(self, node: fx.Node) -> fx.Node:
        source, index = _nodes(node.args[:1])[0], node.args[1]
        name = operator_name(source)
        if name not in _SORTS:
            return self._call(node, operator.getitem, (self.of(source), index))
        place = _SORTS[name]
        axis = source.args[place] if len(source.args) > place else -1
        numbers = self.of(_nodes(source.args[:1])[0])
        chosen = self._call(node, operator.getitem, (source, 1))
        if name != "max" or True in source.args[2:]:
            return self._call(chosen, aten.gather.default, (numbers, axis, chosen))
        # It drops the axis along which it picks one.
        chosen = self._call(chosen, aten.unsqueeze.default, (chosen, axis))
        picked = self._call(chosen, aten.gather.default, (numbers, axis, chosen))
        return self._call(picked, aten.squeeze.dim, (picked, axis))

    def _root(self, node: fx.Node) -> fx.Node:
        """The ids of all of a product's numbers, of its shape."""
        start = APART * len(self.roots)
        self.roots.append(node)
        given: Any = node.meta["val"].shape
        shape: list[int | fx.Node] = []
        last = node
        for axis, size in enumerate(given):
            if not isinstance(size, int):
                last = size = self._call(last, aten.sym_size.int, (node, axis))
            shape.append(size)
        count: Any = shape[0]
        for size in shape[1:]:
            if isinstance(count, int) and isinstance(size, int):
                count *= size
            else:
                last = count = self._call(last, operator.mul, (count, size))
        ids = self._call(last, aten.arange.default, (count,))
        ids = self._call(ids, aten.add.Tensor, (ids, start))
        return self._call(ids, aten.reshape.default, (ids, shape))

    def _call(self, after: fx.Node, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
        with self._graph.inserting_after(after):
            return self._graph.call_function(target, args, kwargs)


def _lost_at(node: fx.Node, reason: str) -> ExportError:
    return ExportError(
        f"the scores of the detections cannot be followed through the operator {node.target}, "
        f"used by {module_of(node) or 'the detector itself'}: {reason}"
    )


def _picked(node: fx.Node) -> fx.Node | None:
    """Which of the values that were stacked is picked again, if that is all that is picked."""
    given: Any = node.args
    stacked, axis, place = given
    along = (*stacked.args, 0)[1]
    rank = stacked.meta["val"].ndim
    return _nodes(stacked.args[0])[place] if axis % rank == along % rank else None


def _nodes(values: Any) -> list[fx.Node]:
    return [value for value in values if isinstance(value, fx.Node)]


def _like(node: fx.Node, other: fx.Node) -> bool:
    """Whether two values are tensors of the same shape."""
    tensors = [isinstance(each.meta.get("val"), Tensor) for each in (node, other)]
    return all(tensors) and shape_of(node) == shape_of(other)


# Operators with their further arguments, one applied after the other.
Moves = list[tuple[Any, tuple[Any, ...]]]


def slice_of_part(node: fx.Node) -> tuple[fx.Node, Moves] | None:
    """Of a slice of what was put together, where it lies within one of the parts: that part, and
    what makes the slice of it.

    Scores stand beside boxes, of which nothing is to be followed, and boxes beside scores.
    """
    given: Any = (*node.args, *(0, None, None, 1)[len(node.args) - 1 :])
    source, axis, start, end, step = given
    shape: Any = source.meta["val"].shape
    axis %= len(shape)
    if step != 1 or any(
        isinstance(each, fx.Node | torch.SymInt) for each in (start, end, shape[axis])
    ):
        return None
    first, last, _ = slice(start, end).indices(shape[axis])
    return _narrowed(source, axis, first, last)


def _narrowed(node: fx.Node, axis: int, start: int, end: int) -> tuple[fx.Node, Moves] | None:
    name, shape = operator_name(node), node.meta["val"].shape
    given: Any = node.args
    if name == "select":
        source, dropped, place = given
        dropped %= len(shape) + 1
        found = _narrowed(source, axis + (axis >= dropped), start, end)
        if found is None:
            return None
        part, moves = found
        return part, [*moves, (node.target, (dropped, place))]
    if name != "cat" or (*given, 0)[1] % len(shape) != axis:
        return None
    before = 0
    for part in _nodes(given[0]):
        size = part.meta["val"].shape[axis]
        if not isinstance(size, int):
            return None
        if before <= start and end <= before + size:
            return part, [(aten.slice.Tensor, (axis, start - before, end - before))]
        before += size
    return None
