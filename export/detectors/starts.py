"""Starts: what a layer gives to each product whose numbers become scores."""

from collections.abc import Sequence

from torch import Tensor, fx

from camcore.errors import ExportError
from camcore.export.cut import dependents
from camcore.export.detectors.origins import Root
from camcore.export.find.modules import returned_by_calls, returned_by_module


def starts_of(graph: fx.Graph, roots: Sequence[Root], layers: Sequence[str]) -> list[fx.Node]:
    """For each product, of all that the layers return, the value that it looks at last.

    Raises:
        ExportError: a product looks at none of them, or at several.
    """
    returned = [node for layer in layers for node in returned_by_calls(graph, layer)]
    return [_last_before(root.node, returned, layers) for root in roots]


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


def pyramid_of(graph: fx.Graph, roots: Sequence[Root]) -> tuple[str, ...]:
    """The layers at whose values the ways to classes and to boxes part, one for each product.

    Raises:
        ExportError: no module returns such a value.
    """
    returned = returned_by_module(graph)
    found: dict[str, None] = {}
    for root in roots:
        fork = _fork_before(root.node)
        names = [name for name, values in returned.items() if values == [fork] and name]
        if not names:
            raise ExportError(
                f"no module returns what {root.node.name!r} makes class scores of, and boxes are "
                "made of as well: name layers, one for each level"
            )
        found[min(names, key=len)] = None
    return tuple(found)


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
