"""A loop as long as its data needs: in Python, in a graph of torch's, and in ONNX."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore._arrays import namespace
from camcore._loops import repeat, repeat_until_still
from tests.backends import Backend
from tests.camcore.exporting import export


def halve(values, floor):  # type: ignore[no-untyped-def]
    """A step: half of each value, but no less than a floor."""
    xp = namespace(values)
    halved = xp.maximum(values // 2, floor)
    return halved, xp.all(halved == values)


def add(values, more):  # type: ignore[no-untyped-def]
    return values + more


class Added(nn.Module):
    def forward(self, values: Tensor, more: Tensor) -> tuple[Tensor]:
        return (repeat(add, 3, values, more),)


def test_so_many_times(backend: Backend) -> None:
    given = backend.array([1, 2]), backend.array([10, 20])
    backend.assert_close(repeat(add, 3, *given), [31, 62], "int64")
    backend.assert_close(repeat(add, 0, *given), [1, 2], "int64")


def test_so_many_times_in_a_graph() -> None:
    """The graph repeats: it does not hold the step so many times."""
    values = torch.tensor([1.0, 2]), torch.tensor([10.0, 20])
    program = torch.export.export(Added(), values)
    (found,) = program.module()(values[0] + 1, values[1])
    assert found.tolist() == [32, 63]
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.higher_order.while_loop in calls
    assert torch.ops.aten.add.Tensor not in calls


class Halved(nn.Module):
    def forward(self, values: Tensor, floor: Tensor) -> tuple[Tensor]:
        return (repeat_until_still(halve, values, floor),)


def test_until_nothing_changes(backend: Backend) -> None:
    steps = []

    def counted(values, floor):  # type: ignore[no-untyped-def]
        steps.append(1)
        return halve(values, floor)

    floor = backend.array([3, 1])
    found = repeat_until_still(counted, backend.array([100, 1000]), floor)
    backend.assert_close(found, [3, 1], "int64")
    assert len(steps) == 10  # 1000 is halved nine times, and then once more


def test_what_stands_still_is_looked_at_once(backend: Backend) -> None:
    found = repeat_until_still(halve, backend.array([2, 2]), backend.array([2, 2]))
    backend.assert_close(found, [2, 2], "int64")


def test_in_a_graph() -> None:
    """Traced with values that take four steps, run with such as take sixty, and other sizes."""
    example = (torch.tensor([9, 2]), torch.tensor([1, 1]))
    free = ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})
    program = torch.export.export(Halved(), example, dynamic_shapes=free)
    run = export(Halved(), example, free)
    for values, floor in ([2**60, 5, 7], [1, 1, 2]), ([4], [4]), ([2**30, 2**40], [3, 9]):
        inputs = torch.tensor(values), torch.tensor(floor)
        (expected,) = Halved()(*inputs)
        assert expected.tolist() == floor
        assert torch.equal(program.module(check_guards=False)(*inputs)[0], expected)
        np.testing.assert_array_equal(run(inputs)[0], expected)


def test_the_graph_holds_the_step_once() -> None:
    values = torch.tensor([9, 2])
    program = torch.export.export(Halved(), (values, torch.ones_like(values)))
    loops = program.graph.find_nodes(op="call_function", target=torch.ops.higher_order.while_loop)
    assert len(loops) == 1
    assert len(list(program.graph.nodes)) < 10


def test_an_error_in_a_step_is_the_callers() -> None:
    def fail(values):  # type: ignore[no-untyped-def]
        raise ZeroDivisionError("a step's own")

    with pytest.raises(ZeroDivisionError, match="a step's own"):
        repeat_until_still(fail, np.zeros(2))
