"""Reductions: means and sums over the last axes of a matrix product that was reshaped."""

import math
from typing import Any

import torch
from torch import fx

from camcore.export.write.nodes import call

aten = torch.ops.aten

# What gives the same values, in the same order, another shape.
RESHAPES = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}


def reduced_product(reduced: fx.Node) -> tuple[Any, Any]:
    """The matrix product of which a mean or sum is taken, as a view, and of how many values each.

    None where it is no such thing. The values lie in a row of the product if they divide it.
    """
    count = count_last_axes(reduced)
    view: Any = reduced.args[0]
    product = view
    while product.target in RESHAPES and len(product.users) == 1:
        product = product.args[0]
    if product is view or product.target is not aten.mm.default or not count:
        return None, 0
    return product, math.prod(view.meta["val"].shape[-count:])


def count_last_axes(reduced: fx.Node) -> int:
    """How many axes a mean or sum goes over, 0 unless they are the last ones and are gone then."""
    given: Any
    axes: Any
    given, axes, *others = reduced.args
    rank = given.meta["val"].ndim
    axes = sorted(axis % rank for axis in axes or range(rank))
    last = list(range(rank - len(axes), rank))
    return len(axes) if axes == last and not others and not reduced.kwargs else 0


def replace_reduced(graph: fx.Graph, reduced: fx.Node, values: fx.Node) -> None:
    """Put values, in the same order, in the place of a mean or sum over last axes of a view."""
    view: Any = reduced.args[0]
    shape = list(view.args[1][: -count_last_axes(reduced)])
    reduced.replace_all_uses_with(call(graph, aten.reshape.default, (values, shape), like=reduced))
