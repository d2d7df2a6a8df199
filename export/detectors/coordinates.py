"""Coordinates: which numbers a box's coordinate is made of, and how much each of them moves it.

A detector makes boxes of a product's numbers: it multiplies, adds and takes exponentials, then
gathers, as it does with scores. Beside each value on that way go the ids of the numbers that it is
made of, and its derivative by each: what a box is decoded from is few numbers of one place.
"""

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx

from camcore.errors import ExportError
from camcore.export.cut import dependents
from camcore.export.detectors.origins import MOVES, PRODUCTS, VIEWS, Followed, Ids, slice_of_part
from camcore.export.trace.graphs import module_of, operator_name, shape_of

aten = torch.ops.aten

# Of x1, y1, x2, y2: which are added up, and with which sign.
COORDINATES: Mapping[str, tuple[tuple[int, float], ...]] = {
    "left": ((0, 1.0),),
    "top": ((1, 1.0),),
    "right": ((2, 1.0),),
    "bottom": ((3, 1.0),),
    "width": ((2, 1.0), (0, -1.0)),
    "height": ((3, 1.0), (1, -1.0)),
}

# Ids and the derivative by the numbers of those ids, each of the shape of the value.
Terms = dict[fx.Node, fx.Node]

_SAME = {"clone", "alias", "_to_copy", "contiguous"}


def find_terms(
    graph: fx.Graph, boxes: fx.Node, coordinate: str, fixed: frozenset[fx.Node]
) -> Followed:
    """What a coordinate of boxes (D, 4) is made of: ids and slopes (D, T), new values of the graph.

    Terms may repeat an id, and are padded with slopes of zero. A coordinate that the image's border
    cuts off is moved by nothing.

    Args:
        fixed: values that stay as they are, as the regions that a detector looks at a second time.

    Raises:
        ExportError: an operator on the way is not known to decode boxes.
    """
    found = _Terms(graph, fixed)
    terms = found.of(boxes)
    if not terms:
        raise ExportError(
            "the boxes do not depend on the image, so their coordinates have no explanation"
        )
    ids, slopes = [], []
    for place, sign in COORDINATES[coordinate]:
        for each, slope in terms.items():
            ids.append(found.call(aten.select.int, each, 1, place))
            picked = found.call(aten.select.int, slope, 1, place)
            slopes.append(picked if sign == 1 else found.call(aten.neg.default, picked))
    return Followed(
        found.call(aten.stack.default, ids, 1),
        found.call(aten.stack.default, slopes, 1),
        found.ids.roots,
    )


class _Terms:
    """Terms of values, each made once, behind all others of the graph."""

    def __init__(self, graph: fx.Graph, fixed: frozenset[fx.Node]) -> None:
        self.ids = Ids(graph)
        self._graph, self._made = graph, dict[fx.Node, Terms]()
        before = _leading_to(graph, fixed)
        products = [
            node
            for node in graph.nodes
            if operator_name(node) in PRODUCTS and node not in before and node not in fixed
        ]
        self._moving = dependents(products)

    def call(self, target: Any, *args: Any) -> fx.Node:
        with self._graph.inserting_before(self._graph.output_node()):
            return self._graph.call_function(target, args)

    def of(self, node: fx.Node) -> Terms:
        """None of a value that no product moves."""
        if node not in self._made:
            self._made[node] = self._make(node) if node in self._moving else {}
        return self._made[node]

    def _make(self, node: fx.Node) -> Terms:
        name = operator_name(node)
        if name in PRODUCTS:
            source = _nodes(node.args)[0]
            if operator_name(source) in ("softmax", "_softmax"):
                return self._expected(node, source)
            return {self.ids.of(node): self.call(aten.ones_like.default, node)}
        if name == "detach":
            return {}
        if name in _SAME:
            return self.of(_nodes(node.args)[0])
        narrowed = slice_of_part(node) if name == "slice" else None
        if narrowed is not None:
            terms = self.of(narrowed[0])
            for target, args in narrowed[1]:
                terms = self._moved(terms, partial(self._move, node, target, args))
            return terms
        if node.target is operator.getitem or name in MOVES:
            source = _nodes(node.args[:1])[0]
            args = node.args[1:]
            # Ids need not lie in memory as the boxes do.
            target = aten.reshape.default if name in VIEWS else node.target
            return self._moved(self.of(source), partial(self._move, node, target, args))
        if name in ("cat", "stack"):
            return self._joined(node, _nodes(node.args[0]))
        if name in _RULES:
            return self._chained(node, _RULES[name](self, node))
        raise self._lost_at(node)

    def _move(self, node: fx.Node, target: Any, args: Any, value: fx.Node) -> fx.Node:
        with self._graph.inserting_before(self._graph.output_node()):
            return self._graph.call_function(target, (value, *args), node.kwargs)

    @staticmethod
    def _moved(terms: Terms, move: Callable[[fx.Node], fx.Node]) -> Terms:
        return {move(ids): move(slope) for ids, slope in terms.items()}

    def _joined(self, node: fx.Node, parts: list[fx.Node]) -> Terms:
        """The terms of each part side by side; a part with fewer has zeros in place of the rest."""
        every = [list(self.of(part).items()) for part in parts]
        found: Terms = {}
        for place in range(max(map(len, every))):
            ids, slopes = [], []
            for part, terms in zip(parts, every, strict=True):
                nothing = self.call(aten.zeros_like.default, part)
                slopes.append(terms[place][1] if place < len(terms) else nothing)
                ids.append(
                    terms[place][0]
                    if place < len(terms)
                    else self.call(aten.to.dtype, nothing, torch.int64)
                )
            axis = node.args[1:]
            found[self.call(node.target, ids, *axis)] = self.call(node.target, slopes, *axis)
        return found

    def _chained(self, node: fx.Node, factors: list[tuple[fx.Node, Any]]) -> Terms:
        """By the chain rule: an operand's terms times the operator's derivative by it."""
        found: Terms = {}
        for operand, factor in factors:
            for ids, slope in self.of(operand).items():
                if shape_of(operand) != shape_of(node):
                    ids = self.call(aten.expand_as.default, ids, node)
                    slope = self.call(aten.expand_as.default, slope, node)
                if factor != 1:
                    slope = self.call(aten.mul.Tensor, slope, factor)
                known = found.get(ids)
                found[ids] = self.call(aten.add.Tensor, known, slope) if known else slope
        return found

    def _expected(self, node: fx.Node, source: fx.Node) -> Terms:
        """Of the mean of fixed numbers, likely as a softmax says: of y = sum_j w_j p_j, by the
        logit z_m, that is p_m (w_m - y).
        """
        weight: Any = node.args[1]
        shape, weights = source.meta["val"].shape, weight.meta["val"].shape
        axis: Any = source.args[1]
        one = len(shape) == 4 and axis in (1, -3) and tuple(weights) == (1, shape[1], 1, 1)
        if operator_name(node) not in ("conv2d", "convolution") or not one:
            raise self._lost_at(node)
        found: Terms = {}
        for ids, slope in self.of(_nodes(source.args)[0]).items():
            for bin_ in range(int(shape[1])):
                pick = (1, bin_, bin_ + 1)
                likely = self.call(aten.slice.Tensor, source, *pick)
                number = self.call(aten.slice.Tensor, weight, *pick)
                away = self.call(aten.sub.Tensor, number, node)
                own = self.call(aten.slice.Tensor, slope, *pick)
                moved = self.call(aten.mul.Tensor, likely, away)
                found[self.call(aten.slice.Tensor, ids, *pick)] = self.call(
                    aten.mul.Tensor, own, moved
                )
        return found

    def within(self, node: fx.Node, low: Any, high: Any) -> fx.Node:
        """1 where a value is not cut off, else 0."""
        (value,) = _nodes(node.args[:1])
        inside = self.call(aten.ones_like.default, value)
        for bound, compare in ((low, aten.ge.Scalar), (high, aten.le.Scalar)):
            if bound is not None:
                kept = self.call(compare, value, bound)
                inside = self.call(aten.mul.Tensor, inside, kept)
        return inside

    @staticmethod
    def _lost_at(node: fx.Node) -> ExportError:
        return ExportError(
            f"the boxes cannot be followed through the operator {node.target}, used by "
            f"{module_of(node) or 'the detector itself'}: which numbers a coordinate is made of is "
            "told through sums, products, exponentials and gathers. Leave out target, for maps of "
            "the classes' scores"
        )


def _leading_to(graph: fx.Graph, values: frozenset[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = list(values)
    while pending:
        for each in pending.pop().all_input_nodes:
            if each not in found:
                found.add(each)
                pending.append(each)
    return found


def _nodes(values: Any) -> list[fx.Node]:
    return [value for value in values if isinstance(value, fx.Node)]


Factors = list[tuple[fx.Node, Any]]


def _sum(sign: int) -> Callable[[_Terms, fx.Node], Factors]:
    def rule(terms: _Terms, node: fx.Node) -> Factors:
        alpha: Any = node.kwargs.get("alpha", 1)
        a, b = node.args[:2]
        pairs = [(a, 1), (b, sign * alpha)]
        return [(each, factor) for each, factor in pairs if isinstance(each, fx.Node)]

    return rule


def _reversed_difference(terms: _Terms, node: fx.Node) -> Factors:
    return [(_nodes(node.args)[0], -1)]


def _product(terms: _Terms, node: fx.Node) -> Factors:
    a, b = node.args[:2]
    pairs = [(a, b), (b, a)]
    return [(each, other) for each, other in pairs if isinstance(each, fx.Node)]


def _quotient(terms: _Terms, node: fx.Node) -> Factors:
    a, b = node.args[:2]
    found: Factors = []
    if isinstance(a, fx.Node):
        inverse = terms.call(aten.reciprocal.default, b) if isinstance(b, fx.Node) else 1 / b  # type: ignore[operator]
        found.append((a, inverse))
    if isinstance(b, fx.Node) and terms.of(b):
        share = terms.call(aten.div.Tensor, node, b)
        found.append((b, terms.call(aten.neg.default, share)))
    return found


def _exponential(terms: _Terms, node: fx.Node) -> Factors:
    return [(_nodes(node.args)[0], node)]


def _logarithm(terms: _Terms, node: fx.Node) -> Factors:
    (x,) = _nodes(node.args)
    return [(x, terms.call(aten.reciprocal.default, x))]


def _sigmoid(terms: _Terms, node: fx.Node) -> Factors:
    rest = terms.call(aten.rsub.Scalar, node, 1.0)
    return [(_nodes(node.args)[0], terms.call(aten.mul.Tensor, node, rest))]


def _hyperbolic_tangent(terms: _Terms, node: fx.Node) -> Factors:
    square = terms.call(aten.mul.Tensor, node, node)
    return [(_nodes(node.args)[0], terms.call(aten.rsub.Scalar, square, 1.0))]


def _square(terms: _Terms, node: fx.Node) -> Factors:
    x, power = node.args
    if not isinstance(x, fx.Node) or power != 2:
        raise terms._lost_at(node)
    return [(x, terms.call(aten.mul.Tensor, x, 2.0))]


def _negation(terms: _Terms, node: fx.Node) -> Factors:
    return [(_nodes(node.args)[0], -1)]


def _relu(terms: _Terms, node: fx.Node) -> Factors:
    (x,) = _nodes(node.args)
    return [(x, terms.call(aten.gt.Scalar, x, 0.0))]


def _clamp(terms: _Terms, node: fx.Node) -> Factors:
    """As autograd has it, the bounds themselves are inside."""
    names = {"clamp_min": ("low",), "clamp_max": ("high",)}.get(
        operator_name(node), ("low", "high")
    )
    bounds = dict(zip(names, node.args[1:], strict=False))
    low, high = (
        node.kwargs.get("min", bounds.get("low")),
        node.kwargs.get("max", bounds.get("high")),
    )
    return [(_nodes(node.args)[0], terms.within(node, low, high))]


_RULES: dict[str, Callable[[_Terms, fx.Node], Factors]] = {
    "add": _sum(1),
    "sub": _sum(-1),
    "rsub": _reversed_difference,
    "mul": _product,
    "div": _quotient,
    "exp": _exponential,
    "log": _logarithm,
    "sigmoid": _sigmoid,
    "tanh": _hyperbolic_tangent,
    "pow": _square,
    "neg": _negation,
    "relu": _relu,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
}
