"""Means and sums over the last axes of a product that was reshaped."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from camcore.export.write.nodes import calls
from camcore.export.write.reductions import count_last_axes, reduced_product, replace_reduced

aten = torch.ops.aten


def traced(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[fx.GraphModule, fx.Node]:
    """A graph, and the one mean in it."""
    module = make_fx(function, tracing_mode="fake")(*inputs)
    (mean,) = calls(module.graph, aten.mean.dim)
    return module, mean


@given(rank=st.integers(1, 4), data=st.data())
def test_how_many_axes_are_the_last(rank: int, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    keepdim = data.draw(st.booleans())
    signed = [axis - data.draw(st.sampled_from([0, rank])) for axis in axes]
    _, mean = traced(lambda x: aten.mean.dim(x, signed, keepdim), torch.ones([2] * rank))
    are_last = sorted(axes) == list(range(rank - len(axes), rank))
    assert count_last_axes(mean) == (len(axes) if are_last and not keepdim else 0)


X, W = torch.arange(8.0).reshape(2, 4), torch.linspace(-1, 2, 48).reshape(4, 12)

PRODUCTS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "one axis": (3, lambda x, w: aten.mm(x, w).view(2, 4, 3).mean(-1)),
    "two axes": (6, lambda x, w: aten.mm(x, w).view(2, 2, 2, 3).mean((2, 3))),
    "two views": (2, lambda x, w: aten.mm(x, w).view(-1, 6).view(2, 6, 2).mean(-1)),
    "no view": (0, lambda x, w: aten.mm(x, w).mean(-1)),
    "no product": (0, lambda x, w: (x + x).view(2, 2, 2).mean(-1)),
    "first axis": (0, lambda x, w: aten.mm(x, w).view(2, 4, 3).mean(0)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_product_of_which_a_mean_is_taken(name: str) -> None:
    points, function = PRODUCTS[name]
    module, mean = traced(function, X, W)
    product, found = reduced_product(mean)
    assert found == points
    assert (product is not None) == (points > 0)
    assert product is None or product in calls(module.graph, aten.mm.default)


@pytest.mark.parametrize("name", [name for name, (points, _) in PRODUCTS.items() if points])
def test_values_in_the_place_of_a_mean(name: str) -> None:
    """They come in the same order, and get the mean's shape."""
    points, function = PRODUCTS[name]
    module, mean = traced(function, X, W)
    product: Any
    product, _ = reduced_product(mean)
    graph = module.graph
    with graph.inserting_before(mean):
        rows = graph.call_function(aten.reshape.default, (product, [-1, points]))
        values = graph.call_function(aten.amax.default, (rows, [-1]))
        for node in (rows, values):
            inputs = fx.map_arg(node.args, lambda each: each.meta["val"])
            node.meta["val"] = node.target(*inputs)
        replace_reduced(graph, mean, values)
    graph.eliminate_dead_code()
    module.recompile()
    expected = (X @ W).reshape(-1, points).amax(-1).reshape(mean.meta["val"].shape)
    torch.testing.assert_close(module(X, W), expected)
