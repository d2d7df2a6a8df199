"""Positions: which points of a grid the tokens of a row are.

Between a map and a row of its points models move values about: windows are cut out, and what is to
be pooled is brought side by side. Coordinates are moved in place of the values, and the row is read
off them. They are fractions of the map's height and width, of the middle of each point.
"""

import math
import operator
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from camcore.export.trace.graphs import hint, sizes_of

aten = torch.ops.aten

# One for each axis of the grid, of the value's shape; a list of such for operators of many results.
# NaN is at no point of the grid, as a class token or a mean of all tokens; None stands for what is
# not known.
_Coordinates = list[Tensor] | list[list[Tensor]] | None

# They move values, and change none.
_MOVES = {
    aten.chunk,
    aten.clone,
    aten.contiguous,
    aten.expand,
    aten.flatten,
    aten.flip,
    aten.movedim,
    aten.permute,
    aten.reshape,
    aten.roll,
    aten.select,
    aten.slice,
    aten.split,
    aten.split_with_sizes,
    aten.squeeze,
    aten.transpose,
    aten.unbind,
    aten.unflatten,
    aten.unfold,
    aten.unsqueeze,
    aten.view,
    aten._unsafe_view,
}
# A view may be possible for the values and not for their coordinates.
_AS_RESHAPE = {aten.view, aten._unsafe_view}

# They mix channels, and give each token a value of its own.
_IN_PLACE = {
    aten.batch_norm,
    aten.dropout,
    aten.group_norm,
    aten.layer_norm,
    aten.softmax,
    aten.to,
}
_OF_CHANNELS = {aten.linear, aten.scaled_dot_product_attention}
_JOINS = {aten.cat, aten.stack}

# What they give lies in the middle of what they take.
_POOLS = {aten.amax.default, aten.max.dim, aten.mean.dim}

_FOLLOWED = _MOVES | _IN_PLACE | _OF_CHANNELS | _JOINS


class Positions:
    """The coordinates of the values of a graph.

    `start` gives the axes of the grid of a value that is a map, and None for others.
    """

    def __init__(self, start: Callable[[fx.Node], tuple[int, ...] | None]) -> None:
        self._start = start
        self._known: WeakKeyDictionary[fx.Node, _Coordinates] = WeakKeyDictionary()

    def of_tokens(self, node: fx.Node) -> Tensor | None:
        """The coordinates (D, T) of a row of tokens (B, T, C), None if they are not known."""
        found = self._of(node)
        if found is None:
            return None
        # All images are alike.
        coordinates = torch.stack([values[0] for values in found])
        row = coordinates[..., 0]
        return row if _are_alike(coordinates) else None

    def _of(self, node: fx.Node) -> _Coordinates:
        pending = [node]
        while pending:
            current = pending[-1]
            sources = current.all_input_nodes if _is_followed(current) else []
            missing = [value for value in sources if value not in self._known]
            if missing:
                pending += missing
                continue
            pending.pop()
            found = _moved(current, self._known) if sources else None
            self._known[current] = self._begin(current) if found is None else found
        return self._known[node]

    def _begin(self, node: fx.Node) -> _Coordinates:
        axes = self._start(node)
        if axes is None:
            return None
        sizes = sizes_of(node)
        return [
            ((torch.arange(float(sizes[axis])) + 0.5) / sizes[axis])
            .reshape([-1 if n == axis else 1 for n in range(len(sizes))])
            .expand(sizes)
            for axis in axes
        ]


def grid_of(row: Tensor) -> tuple[tuple[int, ...], bool] | None:
    """The grid of the whole image that coordinates (D, T) fill, and whether row by row.

    None if they fill none, or one of a part of the image.
    """
    row = row.round(decimals=5)
    axes = [torch.unique(axis) for axis in row]
    grid = tuple(map(len, axes))
    if math.prod(grid) != row.shape[1] or torch.unique(row, dim=1).shape != row.shape:
        return None
    if not all(map(_spans_the_image, axes)):
        return None
    ordered = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    return grid, torch.equal(row, ordered)


def _spans_the_image(points: Tensor) -> bool:
    """Whether points in order are as many as find room, as far apart as they are; one may lack."""
    if len(points) == 1:
        return abs(float(points) - 0.5) < 1e-3
    apart = float(points[-1] - points[0]) / (len(points) - 1)
    return abs(len(points) * apart - 1) <= apart + 1e-3


def _is_followed(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    by_operator = _packet(node) in _FOLLOWED or node.target in _POOLS
    return by_operator or _is_pointwise(node) or _is_item(node)


def _moved(node: fx.Node, known: WeakKeyDictionary[fx.Node, _Coordinates]) -> _Coordinates:
    """The coordinates of what an operator returns, from those of what it is given."""
    packet, x = _packet(node), node.args[0]
    if packet in _JOINS:
        return _joined(node, known)
    if _is_pointwise(node):
        return _of_equal_shape(node, known)
    given = known[x] if isinstance(x, fx.Node) else None
    if given is None:
        return None
    if _is_item(node):
        return [values[node.args[1]] for values in given]  # type: ignore[index]
    if packet in _MOVES:
        target = aten.reshape.default if packet in _AS_RESHAPE else node.target
        others, named = fx.map_arg((node.args[1:], node.kwargs), lambda n: hint(n.meta["val"]))
        return [target(values, *others, **named) for values in given]  # type: ignore[operator]
    if node.target in _POOLS:
        return _averaged(node, given)  # type: ignore[arg-type]
    if packet in _OF_CHANNELS:
        return _spread(node, given)  # type: ignore[arg-type]
    return given


def _joined(node: fx.Node, known: WeakKeyDictionary[fx.Node, _Coordinates]) -> _Coordinates:
    parts: list[fx.Node] = node.args[0]  # type: ignore[assignment]
    found = [known[part] for part in parts]
    count = max((len(each) for each in found if each), default=0)
    filled = [
        each or [torch.full(sizes_of(part), math.nan)] * count
        for part, each in zip(parts, found, strict=True)
    ]
    axes = zip(*filled, strict=True)
    return [node.target(list(axis), *node.args[1:], **node.kwargs) for axis in axes] or None  # type: ignore[operator]


def _of_equal_shape(node: fx.Node, known: WeakKeyDictionary[fx.Node, _Coordinates]) -> _Coordinates:
    sizes = sizes_of(node)
    found = (known[value] for value in node.all_input_nodes if sizes_of(value) == sizes)
    return next((each for each in found if each is not None), None)


def _averaged(node: fx.Node, given: list[Tensor]) -> _Coordinates:
    if len(node.args) < 2:
        return None  # over all axes
    _, axes, *keep = node.args
    means = [values.mean(axes, *keep) for values in given]  # type: ignore[arg-type]
    if all(_are_alike(values[0].flatten()) for values in means):
        means = [torch.full_like(values, math.nan) for values in means]  # of the whole image
    # A maximum along one axis comes with where on it that was.
    return [[mean, mean] for mean in means] if node.target is aten.max.dim else means


def _spread(node: fx.Node, given: list[Tensor]) -> list[Tensor] | None:
    """The coordinates of tokens whose channels are mixed."""
    if not all(_are_alike(values[0]) for values in given):
        middles = _middles_of_patches(given) if _packet(node) is aten.linear else None
        if middles is None:
            return None
        given = middles
    return [values[..., :1].expand(sizes_of(node)) for values in given]


def _middles_of_patches(given: list[Tensor]) -> list[Tensor] | None:
    """The middles of patches whose points are the channels, None where channels are no patches.

    A patch extends along all axes, which a mixed row or column does not, and there is more than
    one of them.
    """
    if any(_are_alike(values[0]) for values in given):
        return None
    middles = [values.mean(-1, keepdim=True) for values in given]
    if all(_are_alike(values[0].flatten()) for values in middles):
        return None
    return middles


def _are_alike(coordinates: Tensor) -> bool:
    """Whether coordinates are the same along the last axis."""
    return bool(coordinates.isclose(coordinates[..., :1], equal_nan=True).all())


def _packet(node: fx.Node) -> object:
    return getattr(node.target, "overloadpacket", None)


def _is_pointwise(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _is_item(node: fx.Node) -> bool:
    return node.target is operator.getitem
