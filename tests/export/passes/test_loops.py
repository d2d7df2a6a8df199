"""Loops: the sum and the stack of a step over numbers, eagerly and in every kind of file."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan_op
from torch.fx.experimental import _config

from camcore.export.passes.loops import (
    Resumed,
    _with_least_left_over,
    number_of_steps,
    stack_chunks,
    sum_chunks,
    weights_of,
)
from camcore.export.trace.graphs import without_assertions
from camcore.export.write.scripting import scriptable
from tests.camcore import exporting

FREE = torch.export.Dim.DYNAMIC


class Looped(nn.Module):
    """Rows of a table (n, D) times the images' (B, D), through a layer: stacked, and added up.

    `count` is the number of rows of a table, free, or one that is known beforehand.
    """

    def __init__(self, chunk: int, count: int | None = None) -> None:
        super().__init__()
        self.chunk, self.count = chunk, count
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).requires_grad_(False)

    def forward(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        count = table.shape[0] if self.count is None else self.count
        # Two parts of a model may share their weights, and two values their memory.
        shared = weights_of(self.layer)
        values = {
            "x": (x[:, :1], x[:, 1:]),
            "shared": shared,
            "rest": (table, count, shared, "of no account"),
        }

        def products(values: Any, numbers: Tensor) -> Tensor:
            table, count, weights, _ = values["rest"]
            rows = table.index_select(0, numbers.clamp(max=count - 1))
            scaled = rows[:, None] * torch.cat(values["x"], dim=1)
            return torch.func.functional_call(self.layer, weights, (scaled,))

        def total(values: Any, numbers: Tensor) -> Tensor:
            found = products(values, numbers)
            inside = (numbers < values["rest"][1])[:, None, None]
            return torch.where(inside, found, 0.0).sum(0)

        start = x.new_full((x.shape[0], 4), 0.5)
        return (
            stack_chunks(products, values, count, self.chunk),
            sum_chunks(total, values, count, self.chunk, start),
        )


def example(batch: int, n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 * batch + n)
    return torch.randn(batch, 3, generator=generator), torch.randn(n, 3, generator=generator)


def one_by_one(module: Looped, x: Tensor, table: Tensor) -> list[np.ndarray]:
    count = len(table) if module.count is None else module.count
    found = [module.layer(table[n] * x).detach().numpy() for n in range(count)]
    return [np.stack(found), sum(found) + np.float32(0.5)]


def assert_is_one_by_one(module: Looped, run: Callable[..., Any], *inputs: Tensor) -> None:
    for found, expected in zip(run(*inputs), one_by_one(module, *inputs), strict=True):
        assert tuple(found.shape) == expected.shape
        np.testing.assert_allclose(np.asarray(found.detach()), expected, rtol=1e-5, atol=1e-5)


@given(count=st.integers(1, 13), chunk=st.integers(1, 16), batch=st.integers(1, 3))
def test_eagerly(count: int, chunk: int, batch: int) -> None:
    for module in (Looped(chunk), Looped(chunk, count)):
        assert_is_one_by_one(module, module, *example(batch, count))


SIZES = ((2, 7), (1, 1), (3, 12), (2, 4))


def exported(module: Looped) -> torch.export.ExportedProgram:
    rows = {0: FREE} if module.count is None else {}
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            module, example(2, module.count or 5), dynamic_shapes=({0: FREE}, rows)
        )


def scripted(program: torch.export.ExportedProgram) -> Callable[..., Any]:
    graph: Any = program.module(check_guards=False)
    module: Any = torch.jit.script(scriptable(without_assertions(graph)))
    return torch.no_grad()(module)  # type: ignore[no-any-return]


def reloaded(program: torch.export.ExportedProgram, tmp_path: Any) -> Callable[..., Any]:
    torch.export.save(program, tmp_path / "looped.pt2")
    return torch.export.load(tmp_path / "looped.pt2").module(check_guards=False)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:The TorchScript type system")
@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_in_torch(chunk: int, tmp_path: Any) -> None:
    """Exported with one number of rows, run with others, which fill their chunks or do not."""
    module = Looped(chunk)
    program = exported(module)
    loops = [node for node in program.graph.nodes if node.target is scan_op]
    assert len(loops) == 2
    vars(program).get("_guards_code", []).clear()
    for run in (program.module(check_guards=False), scripted(program), reloaded(program, tmp_path)):
        for sizes in SIZES:
            assert_is_one_by_one(module, run, *example(*sizes))


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:The TorchScript type system")
@pytest.mark.parametrize("chunk", [4, 100])
def test_a_count_that_is_known(chunk: int) -> None:
    module = Looped(chunk, 10)
    program = exported(module)
    for run in (program.module(check_guards=False), scripted(program)):
        for batch in (1, 3):
            assert_is_one_by_one(module, run, *example(batch, 10))


@pytest.mark.parametrize(("chunk", "count"), [(1, None), (5, None), (4, 10)])
def test_in_onnx(chunk: int, count: int | None) -> None:
    module = Looped(chunk, count).eval()
    rows = {0: FREE} if count is None else {}
    with torch.no_grad():
        run = exporting.export(module, example(2, count or 6), ({0: FREE}, rows))
    for batch, n in SIZES:
        inputs = example(batch, count or n)
        for found, expected in zip(run(inputs), one_by_one(module, *inputs), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_step_that_repeats_the_last_is_dropped() -> None:
    """What the step makes of numbers beyond the count is not among what is stacked."""
    seen: list[list[int]] = []

    def step(values: Any, numbers: Tensor) -> Tensor:
        seen.append(numbers.tolist())
        return numbers * values

    found = stack_chunks(step, torch.tensor(2), 5, 3)
    assert seen == [[0, 1, 2], [3, 4, 5]]
    assert found.tolist() == [0, 2, 4, 6, 8]


@given(count=st.integers(1, 3000), chunk=st.integers(1, 64))
def test_a_chunk_with_the_least_left_over(count: int, chunk: int) -> None:
    chosen = _with_least_left_over(count, chunk)
    most = min(chunk, count)
    assert most / 2 <= chosen <= most
    assert -count % chosen <= -count % most


def test_chunks_that_are_known_to_fit() -> None:
    assert _with_least_left_over(1025, 32) == 25
    assert _with_least_left_over(64, 32) == 32
    assert _with_least_left_over(3, 32) == 3
    assert _with_least_left_over(1, 1) == 1


def test_weights() -> None:
    found = weights_of(nn.BatchNorm1d(2))
    assert {"weight", "bias", "running_mean", "running_var"} <= set(found)


@given(data=st.data(), count=st.integers(1, 40), chunk=st.integers(1, 9))
def test_steps_in_any_order_and_company(data: st.DataObject, count: int, chunk: int) -> None:
    """Each run takes some steps and leaves what came of them to the next one."""

    def square(values: Any, numbers: Tensor) -> Tensor:
        return values * numbers**2

    def total(values: Any, numbers: Tensor) -> Tensor:
        return square(values, torch.where(numbers < count, numbers, 0)).sum(0)

    steps = number_of_steps(count, chunk)
    order = data.draw(st.permutations(range(steps)))
    ends = sorted({0, steps, *data.draw(st.lists(st.integers(0, steps), max_size=4))})
    stacked, summed = torch.zeros(count, dtype=torch.int64), torch.tensor(0)
    three = torch.tensor(3)
    for start, end in pairwise(ends):
        due = torch.tensor(order[start:end])
        stacked = stack_chunks(square, three, count, chunk, Resumed(due, stacked))
        summed = sum_chunks(total, three, count, chunk, three, Resumed(due, summed))
    assert stacked.tolist() == [3 * n**2 for n in range(count)]
    assert int(summed) == sum(stacked.tolist())
