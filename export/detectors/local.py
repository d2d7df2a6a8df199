"""Local: what is between a layer and the class scores, as a classifier of its own.

A detection is a classification: of a region's features where the head looks at regions, else of a
window of the feature map, as large as what one score sees. The head's convolutions take a window
without padding; what padding at the border means is said by a mask of the points that exist.
"""

import operator
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F

from camcore.errors import ExportError
from camcore.export.cut import counts, dependents
from camcore.export.trace.graphs import module_of, operator_name, per_axis, sizes_of

aten = torch.ops.aten

_CONVOLUTION = aten.conv2d.default

# One point at a time, whatever the shape: a window of the result is the result of the window.
_POINTWISE = {
    *("relu", "relu_", "silu", "silu_", "sigmoid", "tanh", "gelu", "elu", "leaky_relu", "mish"),
    *("hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "clamp", "exp", "neg"),
    *("add", "sub", "mul", "div", "clone", "detach", "alias", "contiguous"),
    *("batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
}
# Along the channels alone, which the second axis counts.
_ALONG_CHANNELS = {"cat", "split", "split_with_sizes", "chunk", "slice", "narrow", "softmax"}


class _Between(nn.Module):
    """What is between two values of a graph, `start` and `end`, with the weights that it takes."""

    def __init__(self, graph: fx.GraphModule, start: fx.Node, end: fx.Node) -> None:
        super().__init__()
        self.training = False
        self._ends = (start, end)
        for node in _weights_of(path(start, end)):
            self.register_buffer(_flat(node), attrgetter(str(node.target))(graph))

    def constant(self, node: fx.Node) -> Any:
        """A weight, or a value made of weights alone."""
        if node.op == "get_attr":
            return self.get_buffer(_flat(node))
        if node.op != "call_function":
            raise ExportError(
                f"what follows {module_of(self._ends[0])!r} looks at the image a second time: "
                "choose a later layer"
            )
        args, kwargs = map_arg((node.args, node.kwargs), self.constant)
        return node.target(*args, **kwargs)  # type: ignore[operator]


class Rows(_Between):
    """From features (D, C, *S) of regions to their class scores (D, M)."""

    def forward(self, x: Tensor) -> Tensor:
        start, end = self._ends
        symbol: Any = start.meta["val"].shape[0]
        found: dict[fx.Node, Any] = {start: x}

        def value(node: fx.Node) -> Any:
            if node in found:
                return found[node]
            if counts(node.meta.get("val"), symbol.node.expr):
                return x.shape[0]
            return self.constant(node)

        for node in path(start, end):
            if node is not start and not counts(node.meta.get("val"), symbol.node.expr):
                args, kwargs = map_arg((node.args, node.kwargs), value)
                found[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        scores: Tensor = found[end]
        return scores


class Window(_Between):
    """From windows (D, C, n, n) of a feature map to the class scores (D, M) at their middle.

    `exists` (D, 1, n, n) is 1 for points of the map and 0 beyond its border. `radius` is how far a
    score sees: n is 2 radius + 1.

    Raises:
        ExportError: an operator of the head looks further than a window of fixed size.
    """

    def __init__(self, graph: fx.GraphModule, start: fx.Node, end: fx.Node) -> None:
        super().__init__(graph, start, end)
        self._margins = _margins(start, end)
        self.radius = self._margins[end]

    def forward(self, window: Tensor, exists: Tensor) -> Tensor:
        start, end = self._ends
        found: dict[fx.Node, Any] = {start: window}

        for node in path(start, end):
            if node is start:
                continue
            margin = self._margins[node]

            def value(given: fx.Node, margin: int = margin, node: fx.Node = node) -> Any:
                if given not in found:
                    return self.constant(given)
                if node.target is operator.getitem or node.target is _CONVOLUTION:
                    return found[given]
                return _cropped(found[given], margin - self._margins[given])

            args, kwargs = map_arg((node.args, node.kwargs), value)
            if node.target is _CONVOLUTION:
                found[node] = self._convolve(node, args, exists)
            else:
                found[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        scores: Tensor = found[end]
        return scores.flatten(1)

    def _convolve(self, node: fx.Node, args: Sequence[Any], exists: Tensor) -> Tensor:
        x, weight, bias, _, padding, dilation, groups = _convolution(args)
        if any(padding):
            # What lies beyond the border is zero for a convolution, whatever came of it before.
            (source, *_) = node.all_input_nodes
            x = x * _cropped(exists, self._margins[source])
        return F.conv2d(x, weight, bias, dilation=dilation, groups=groups)


def path(start: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes from one value to another that depends on it, in order."""
    behind = dependents([start])
    needed = {end}
    for node in reversed(end.graph.nodes):
        if node in needed and node is not start:
            needed.update(node.all_input_nodes)
    return [node for node in end.graph.nodes if node in behind and node in needed]


def _weights_of(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The weights that nodes take, directly or in values made of weights alone."""
    pending = [given for node in nodes[1:] for given in node.all_input_nodes]
    seen, found = set(nodes), set()
    while pending:
        node = pending.pop()
        if node in seen or isinstance(node.meta.get("val"), torch.SymInt):
            continue
        seen.add(node)
        if node.op == "get_attr":
            found.add(node)
        pending.extend(node.all_input_nodes)
    return found


def _flat(node: fx.Node) -> str:
    return str(node.target).replace(".", "_")


def _margins(start: fx.Node, end: fx.Node) -> dict[fx.Node, int]:
    """By how many points on each side each value on the way is smaller than the window."""
    margins: dict[fx.Node, int] = {start: 0}
    for node in path(start, end):
        if node is start:
            continue
        margin = max(margins[each] for each in node.all_input_nodes if each in margins)
        if node.target is _CONVOLUTION:
            margin += _reach(node)
        elif not _is_local(node):
            raise _not_local(node, str(node.target))
        margins[node] = margin
    return margins


def _is_local(node: fx.Node) -> bool:
    name = operator_name(node)
    if name in _POINTWISE or node.target is operator.getitem:
        return True
    if name not in _ALONG_CHANNELS:
        return False
    place = 1 if name in ("cat", "slice", "narrow", "softmax") else 2
    return len(node.args) > place and node.args[place] in (1, -3)


def _reach(node: fx.Node) -> int:
    """How far a convolution looks to each side.

    Raises:
        ExportError: it does not look as far to each, or gives another size than it takes.
    """
    _, weight, _, stride, padding, dilation, _ = _convolution(node.args)
    kernel = sizes_of(weight)[2:]
    reach = [d * (k - 1) // 2 for d, k in zip(per_axis(dilation, 2), kernel, strict=True)]
    odd = all(k % 2 for k in kernel)
    if not odd or {*per_axis(stride, 2)} != {1} or per_axis(padding, 2) != reach:
        raise _not_local(node, f"a convolution of {kernel} points, stride {list(stride)}")
    if reach[0] != reach[1]:
        raise _not_local(node, f"a convolution of {kernel} points")
    return reach[0]


def _convolution(args: Sequence[Any]) -> tuple[Any, ...]:
    """All arguments of a convolution, those left out as they are by default."""
    defaults = (None, [1, 1], [0, 0], [1, 1], 1)
    return (*args, *defaults[len(args) - 2 :])


def _not_local(node: fx.Node, what: str) -> ExportError:
    return ExportError(
        f"a map of each detection wants a head that looks at a window of fixed size, and "
        f"{module_of(node) or 'the head'!r} does more ({what}): choose a layer behind it"
    )


def _cropped(x: Any, margin: int) -> Any:
    if margin == 0 or not isinstance(x, Tensor) or x.ndim < 4:
        return x
    return x[..., margin:-margin, margin:-margin]
