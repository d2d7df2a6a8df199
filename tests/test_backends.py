"""The comparison that all kernel tests rely on can fail, in each way it should."""

import numpy as np
import pytest

from tests.backends import BACKENDS, Backend, open_backend


def test_equal_arrays_pass(backend: Backend) -> None:
    values = np.asarray([[0.5, np.nan], [np.inf, -3.0]])
    for dtype in backend.dtypes:
        backend.assert_close(backend.array(values, dtype), values, dtype)
    backend.assert_close(backend.array([1, -1]), [1, -1], "int64")
    backend.assert_close(backend.array([True, False]), [True, False], "bool")


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param([1.0, 2.001], id="value"),
        pytest.param([1.0, np.nan], id="nan"),
        pytest.param([1.0, np.inf], id="infinity"),
        pytest.param([[1.0, 2.0]], id="shape"),
        pytest.param([1.0], id="broadcast"),
    ],
)
def test_other_values_and_shapes_fail(backend: Backend, expected: list[float]) -> None:
    with pytest.raises(AssertionError):
        backend.assert_close(backend.array([1.0, 2.0]), expected, "float32")


def test_a_nan_where_a_number_is_expected_fails(backend: Backend) -> None:
    with pytest.raises(AssertionError):
        backend.assert_close(backend.array([1.0, np.nan]), [1.0, 2.0], "float32")


def test_another_dtype_fails(backend: Backend) -> None:
    with pytest.raises(AssertionError):
        backend.assert_close(backend.array([1.0], "float64"), [1.0], "float32")
    with pytest.raises(AssertionError):
        backend.assert_close(backend.array([1]), [1.0], "float32")


def test_integers_are_compared_exactly(backend: Backend) -> None:
    with pytest.raises(AssertionError):
        backend.assert_close(backend.array([10**9]), [10**9 + 1], "int64")


def test_jax_is_among_the_backends() -> None:
    pytest.importorskip("jax", reason="JAX is not installed, so the kernels did not run on it")
    assert "jax" in BACKENDS


def test_an_array_of_another_library_fails() -> None:
    with open_backend("numpy") as numpy, open_backend("torch") as torch:
        for mine, other in ((numpy, torch), (torch, numpy)):
            with pytest.raises(AssertionError):
                mine.assert_close(other.array([1.0]), [1.0], "float32")


def test_readonly_arrays_refuse_to_be_written_to() -> None:
    with open_backend("readonly") as readonly, pytest.raises(ValueError, match="read-only"):
        readonly.array([1.0])[0] = 2.0


def test_the_strict_backend_refuses_what_cannot_be_traced() -> None:
    with open_backend("strict") as strict:
        array = strict.array([1.0, 2.0])
        with pytest.raises(RuntimeError, match="boolean_indexing flag"):
            array[array > 1]
        with pytest.raises(RuntimeError, match=r"data.dependent"):
            strict.xp.nonzero(array)
