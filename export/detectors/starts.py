"""Starts: what a layer gives to each product whose numbers become scores."""

from collections.abc import Sequence

from torch import Tensor, fx

from camcore.errors import ExportError
from camcore.export.cut import dependents
from camcore.export.find.modules import returned_by_calls, returned_by_module


def starts_of(graph: fx.Graph, roots: Sequence[fx.Node], layers: Sequence[str]) -> list[fx.Node]:
    """For each product, of all that the layers return, the value that it looks at last.

    Raises:
        ExportError: a product looks at none of them, or at several.
    """
    returned = [node for layer in layers for node in returned_by_calls(graph, layer)]
    return [_last_before(root, returned, layers) for root in roots]


def _last_before(root: fx.Node, candidates: Sequence[fx.Node], layers: Sequence[str]) -> fx.Node:
    reaching = [node for node in candidates if root in dependents([node])]
    last = [
        node
        for node in reaching
        if not any(other in dependents([node]) for other in reaching if other is not node)
    ]
    if len(last) != 1:
        raise ExportError(
            f"the layer {', '.join(layers)!r} gives {len(last)} values that the class scores look "
            "at, expected one for each: choose another layer"
        )
    return last[0]


def likely_layers(graph: fx.Graph, roots: Sequence[fx.Node]) -> list[tuple[str, ...]]:
    """Where a detector may be explained of which nobody knows: where the ways to classes and to
    boxes part, a layer for each product; and the last layer before that whose points lie on the
    image's grid.

    Raises:
        ExportError: no module returns such a value.
    """
    returned = returned_by_module(graph)

    def name_of(node: fx.Node) -> str | None:
        """The outermost module that returns a value alone."""
        names = [name for name, values in returned.items() if values == [node] and name]
        return min(names, key=len, default=None)

    forks = [_fork_before(root) for root in roots]
    pyramid = [name_of(fork) if fork is not None else None for fork in forks]
    grids = [node for node in reversed(graph.nodes) if _is_grid(node, roots)]
    last = next(filter(None, map(name_of, grids)), None)
    found = [tuple(dict.fromkeys(name for name in pyramid if name))] if all(pyramid) else []
    found += [(last,)] if last else []
    if not found:
        raise ExportError(
            "no module returns what class scores and boxes are made of, nor a map of the image: "
            "name the layers, one for each level"
        )
    return found


def _is_grid(node: fx.Node, roots: Sequence[fx.Node]) -> bool:
    """Whether a value (1, C, h, w) lies on the image's grid, and all products look at it."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim != 4:
        return False
    (image,) = (each.meta["val"].shape[2:] for each in node.graph.find_nodes(op="placeholder"))
    grid = value.shape[2:]
    if not all(isinstance(points, int) and points > 1 for points in grid) or grid == image:
        return False
    strides = [round(length / points) for length, points in zip(image, grid, strict=True)]
    behind = dependents([node])
    return (
        strides[0] == strides[1]
        and node in dependents(node.graph.find_nodes(op="placeholder"))
        and all(root in behind for root in roots)
    )


def _fork_before(root: fx.Node) -> fx.Node | None:
    """The last value before a product that something else is made of as well."""
    leading = {root}
    images = dependents(root.graph.find_nodes(op="placeholder"))
    for node in reversed(root.graph.nodes):
        if node not in leading:
            continue
        if node is not root and any(user not in leading for user in node.users):
            return node if isinstance(node.meta.get("val"), Tensor) else None
        leading.update(each for each in node.all_input_nodes if each in images)
    return None
