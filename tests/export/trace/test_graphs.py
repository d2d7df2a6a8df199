"""What is asked of traced graphs everywhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from camcore.export.trace.graphs import (
    first_line,
    hint,
    module_of,
    outputs_of,
    per_axis,
    sizes_of,
    without_assertions,
)


def test_first_line() -> None:
    assert first_line(ValueError("\n what happened\nwhy")) == "what happened"
    assert first_line(ValueError()) == "ValueError"


class Inner(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"twice": 2 * x, "half": x / 2}


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], int]:
        torch._check(x.shape[0] > 1)
        return x + 1, self.inner(x), 7


@pytest.fixture(scope="module")
def exported() -> fx.GraphModule:
    """Rows of three numbers, as many as one likes."""
    program = torch.export.export(
        Outer(), (torch.ones(5, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    return program.module(check_guards=False)  # type: ignore[return-value]


def test_what_is_returned_is_flat_and_of_the_graph(exported: fx.GraphModule) -> None:
    returned = outputs_of(exported)
    assert [node.target for node in returned] == [
        torch.ops.aten.add.Tensor,
        torch.ops.aten.mul.Tensor,
        torch.ops.aten.div.Tensor,
    ]
    assert [module_of(node) for node in returned] == ["", "inner", "inner"]


def test_sizes_are_those_of_the_example(exported: fx.GraphModule) -> None:
    (x,) = exported.graph.find_nodes(op="placeholder")
    assert isinstance(x.meta["val"].shape[0], torch.SymInt)
    assert sizes_of(x) == (5, 3)
    assert [hint(size) for size in x.meta["val"].shape] == [5, 3]
    assert sizes_of(exported.graph.output_node()) == ()


def test_nodes_that_only_check_are_gone() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    largest = graph.call_function(torch.ops.aten.amax.default, (x,))
    is_small = graph.call_function(torch.ops.aten.lt.Scalar, (largest, 2))
    graph.call_function(torch.ops.aten._assert_async.msg, (is_small, "too large"))
    graph.output((graph.call_function(torch.ops.aten.neg.default, (x,)),))
    module = fx.GraphModule(nn.Module(), graph)
    with pytest.raises(RuntimeError, match="too large"):
        module(torch.full((2,), 3.0))
    without = without_assertions(module)
    assert without(torch.full((2,), 3.0))[0].tolist() == [-3, -3]
    names = [node.target for node in graph.nodes if node.op == "call_function"]
    assert names == [torch.ops.aten.neg.default]


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=3), rank=st.integers(1, 3))
def test_one_value_stands_for_all_axes(values: list[int], rank: int) -> None:
    found = per_axis(values, rank if len(values) == 1 else len(values))
    assert found == (values * rank if len(values) == 1 else values)
