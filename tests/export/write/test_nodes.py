"""Nodes that are found and made."""

from typing import Any

import pytest
import torch
from torch import fx

from camcore.export.write.nodes import call, calls

aten = torch.ops.aten


def sums_of_squares() -> fx.Graph:
    """Two products in a row, then a sum, of an input (2, 3)."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.arange(6.0).reshape(2, 3)
    square = call(graph, aten.mul.Tensor, (x, x))
    fourth = call(graph, aten.mul.Tensor, (square, square))
    graph.output(call(graph, aten.sum.dim_IntList, (fourth, [1])))
    return graph


def test_calls_of_an_operator_in_their_order() -> None:
    graph = sums_of_squares()
    first, second = calls(graph, aten.mul.Tensor)
    assert second.args == (first, first)
    assert calls(graph, aten.mul.Scalar) == []


def test_a_made_node_has_its_value() -> None:
    """Those that exporters look up, as the graph computes them."""
    graph = sums_of_squares()
    (total,) = calls(graph, aten.sum.dim_IntList)
    run = fx.GraphModule(torch.nn.Module(), graph)(torch.arange(6.0).reshape(2, 3))
    assert total.meta["val"].tolist() == [0.0 + 1 + 16, 81.0 + 256 + 625]
    assert torch.equal(run, total.meta["val"])


@pytest.mark.parametrize("like", [True, False])
def test_a_value_may_be_that_of_another_node(like: bool) -> None:
    graph = sums_of_squares()
    (x,) = graph.find_nodes(op="placeholder")
    with graph.inserting_after(x):
        node: Any = call(graph, aten.neg.default, (x,), like=x if like else None)
    assert (node.meta["val"] is x.meta["val"]) is like
