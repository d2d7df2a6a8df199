"""What only moves values: slices, selections, borders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.export.rule_cases import (
    ONE,
    THREE,
    TWO,
    Case,
    Forward,
    assert_exact,
    assert_rules_give_the_gradient,
    assert_traced_with_symbolic_sizes,
    random,
)


def pad(*padding: int, mode: str) -> Forward:
    return lambda x: F.pad(x, padding, mode=mode)


CASES = {
    "pad_mirrored": Case("reflection_pad2d_backward", pad(3, 1, 0, 2, mode="reflect"), TWO),
    "pad_mirrored_1d": Case("reflection_pad1d_backward", pad(4, 5, mode="reflect"), ONE),
    "pad_mirrored_3d": Case("reflection_pad3d_backward", pad(*[1] * 6, mode="reflect"), THREE),
    "pad_replicated": Case("replication_pad2d_backward", pad(3, 1, 0, 2, mode="replicate"), TWO),
    "pad_replicated_1d": Case("replication_pad1d_backward", pad(40, 5, mode="replicate"), ONE),
    "pad_replicated_3d": Case("replication_pad3d_backward", pad(*[2] * 6, mode="replicate"), THREE),
    "slice": Case("slice_backward", lambda x: x[:, 1:3], TWO),
    "slice_steps": Case("slice_backward", lambda x: x[:, :, 1::3], TWO),
    "slice_steps_short_of_the_end": Case("slice_backward", lambda x: x[..., 0:7:2], TWO),
    "slice_negative": Case("slice_backward", lambda x: x[:, :, -5:-2], TWO),
    "slice_negative_steps": Case("slice_backward", lambda x: x[:, :, -6::2], TWO),
    "slice_beyond_the_end": Case("slice_backward", lambda x: x[:, :, 2:1000], TWO),
    "select": Case("select_backward", lambda x: x[:, :, 2], TWO),
    "select_last": Case("select_backward", lambda x: x[..., -1], TWO),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    assert_exact(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_traced_with_symbolic_sizes(name: str) -> None:
    assert_traced_with_symbolic_sizes(CASES[name])


@given(
    size=st.integers(1, 12),
    start=st.integers(-14, 14) | st.none(),
    stop=st.integers(-14, 14) | st.none(),
    step=st.integers(1, 5),
    axis=st.integers(0, 2),
)
def test_slice(size: int, start: int | None, stop: int | None, step: int, axis: int) -> None:
    at = [slice(None)] * 3
    at[axis] = slice(start, stop, step)
    shape = [2, 3, 4]
    shape[axis] = size
    if len(range(size)[at[axis]]) > 0:
        assert_rules_give_the_gradient(lambda x: x[tuple(at)], random(*shape))


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_select(shape: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    index = data.draw(st.integers(-shape[axis], shape[axis] - 1))
    assert_rules_give_the_gradient(lambda x: x.select(axis, index), random(*shape))
