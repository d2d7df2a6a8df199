"""Layouts against NumPy's own axes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import camcore
from tests.backends import Backend


@given(
    leading=st.lists(st.integers(0, 3), max_size=2),
    space=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_channels_last_to_first(backend: Backend, leading: list[int], space: list[int]) -> None:
    shape = (*leading, *space, 5)
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    expected = np.moveaxis(values, -1, len(leading))
    actual = camcore.channels_last_to_first(backend.array(values), spatial_ndim=len(space))
    backend.assert_close(actual, expected, "float32")


@given(
    leading=st.lists(st.integers(0, 3), max_size=2),
    grid=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    prefix=st.integers(0, 5),
)
def test_tokens_to_grid(
    backend: Backend, leading: list[int], grid: tuple[int, ...], prefix: int
) -> None:
    """The inverse: flatten the grid, put the channels last, put other tokens in front."""
    shape = (*leading, 3, *grid)
    expected = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    patches = np.swapaxes(expected.reshape(*leading, 3, int(np.prod(grid))), -1, -2)
    others = np.full((*leading, prefix, 3), -1.0)
    tokens = np.concatenate([others, patches], axis=-2)
    actual = camcore.tokens_to_grid(backend.array(tokens), grid, prefix_tokens=prefix)
    backend.assert_close(actual, expected, "float32")


def test_integers_stay_integers(backend: Backend) -> None:
    tokens = backend.array([[[0, 0], [1, 2], [3, 4]]])
    backend.assert_close(camcore.tokens_to_grid(tokens, (1, 2)), [[[[1, 3]], [[2, 4]]]], "int64")


def test_wrong_shapes_are_refused(backend: Backend) -> None:
    tokens = backend.array(np.ones((2, 197, 8)))
    with pytest.raises(camcore.InputError, match=r"T = 0 .* 196 .*\(14, 14\), got \(2, 197, 8\)"):
        camcore.tokens_to_grid(tokens, (14, 14), prefix_tokens=0)
    with pytest.raises(camcore.InputError, match="-1 prefix tokens"):
        camcore.tokens_to_grid(tokens, (14, 14), prefix_tokens=-1)
    with pytest.raises(camcore.InputError, match=r"positive integers, got \(-14, -14\)"):
        camcore.tokens_to_grid(tokens, (-14, -14))
    with pytest.raises(camcore.InputError, match=r"got \(3,\)"):
        camcore.tokens_to_grid(backend.array(np.ones(3)), (1, 2))
    with pytest.raises(camcore.InputError, match=r"3 spatial axes, got \(2, 197, 8\)"):
        camcore.channels_last_to_first(tokens, spatial_ndim=3)
    with pytest.raises(camcore.InputError, match="0 spatial axes"):
        camcore.channels_last_to_first(tokens, spatial_ndim=0)
