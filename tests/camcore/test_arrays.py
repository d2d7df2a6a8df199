"""Helpers of the kernels: sizes that are symbols, and the promises of single helpers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore import _arrays
from camcore.errors import InputError
from tests.backends import Backend


class Symbol:
    """A size that must not be looked at while a graph is traced."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared a symbolic size")

    __hash__ = None  # type: ignore[assignment]


def test_symbolic_sizes_are_never_compared() -> None:
    size = Symbol()
    assert _arrays.agree(size, 3)
    assert _arrays.agree(3, size)
    assert _arrays.broadcasts((size, 1, 4), (3, size, 4))
    assert not _arrays.broadcasts((size, 5), (3, 4))
    assert _arrays.known((size, 3, size)) == [3]


def test_shapes_broadcast_as_numpy_says() -> None:
    for first, second in [((), (3,)), ((1,), (3,)), ((2, 1), (3,)), ((0,), (1,)), ((2, 3), (2, 3))]:
        np.broadcast_shapes(first, second)
        assert _arrays.broadcasts(first, second)
    for first, second in [((2,), (3,)), ((0,), (2,)), ((2, 3), (2, 4)), ((3, 1, 2), (2, 1, 2))]:
        with pytest.raises(ValueError, match="broadcast"):
            np.broadcast_shapes(first, second)
        assert not _arrays.broadcasts(first, second)


def test_a_cast_to_the_same_dtype_is_the_same_array(backend: Backend) -> None:
    array = backend.array([1.0])
    assert _arrays.cast(backend.xp, array, backend.dtypes["float32"]) is array
    assert _arrays.cast(backend.xp, array, backend.dtypes["float64"]) is not array


def test_divide_by_zero_is_the_numerator(backend: Backend) -> None:
    quotient = _arrays.divide(backend.array([0.0, 3.0, 3.0]), backend.array([0.0, 0.0, 2.0]))
    backend.assert_close(quotient, [0.0, 3.0, 1.5], "float32")


@given(data=st.data())
def test_the_largest_and_of_equal_ones_the_first(backend: Backend, data: st.DataObject) -> None:
    values = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 2.0, np.inf, np.nan])
    length = 5 if backend.name == "jax" else data.draw(st.integers(1, 7))
    count = 2 if backend.name == "jax" else data.draw(st.integers(1, length))
    rows = data.draw(st.lists(st.lists(values, min_size=length, max_size=length), min_size=1))
    rows = rows[:1] if backend.name == "jax" else rows
    expected = []
    for row in rows:
        # NaN counts as infinity.
        order = sorted(range(length), key=lambda k: (-(row[k] if row[k] == row[k] else np.inf), k))
        expected.append(sorted(order[:count]))
    actual = _arrays.largest(backend.array(np.asarray(rows)), count)
    backend.assert_close(actual, expected, "int64")


def test_relu_keeps_nan(backend: Backend) -> None:
    positive = _arrays.relu(backend.array([-1.0, 0.0, 2.0, np.nan]))
    backend.assert_close(positive, [0.0, 0.0, 2.0, np.nan], "float32")


def test_shapes_are_shown_as_tuples() -> None:
    assert [_arrays.show(shape) for shape in ((), (2,), (2, 3))] == ["()", "(2,)", "(2, 3)"]


def test_no_array_has_no_namespace() -> None:
    with pytest.raises(InputError, match="got none"):
        _arrays.namespace()
