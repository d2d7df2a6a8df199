"""The array libraries that every kernel has to run on, and the comparison that says whether it did.

- `numpy`;
- `readonly`: NumPy arrays that cannot be written to, which catches kernels that change their input;
- `strict`: array-api-strict without boolean indexing, data-dependent shapes and extensions. What
  runs here can be traced into a graph of fixed operators;
- `torch`, eager;
- `jax`, where it is installed.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import array_api_compat
import array_api_strict
import numpy as np
import torch

BACKENDS = ["numpy", "readonly", "strict", "torch"]
if importlib.util.find_spec("jax"):
    BACKENDS.append("jax")

# Relative, and absolute for values around one. Four times the rounding error of the two halves,
# which are computed in float32 and rounded at the end; the wider two leave room for sums.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class Backend:
    """An array library: its namespace, and its floating-point types by name."""

    name: str
    xp: Any
    dtypes: Mapping[str, Any]

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """The values as this library's array; without a dtype, integers and booleans stay so."""
        values = np.array(values)
        if dtype is None and values.dtype.kind == "f":
            dtype = "float32"
        if self.name == "readonly":
            values = values if dtype is None else values.astype(dtype)
            values.flags.writeable = False
            return values
        return self.xp.asarray(values, dtype=None if dtype is None else self.dtypes[dtype])

    def numpy(self, array: Any) -> np.ndarray:
        """The array in NumPy, floating point as float64."""
        if self.name == "torch":
            array = array.to(torch.float64) if array.is_floating_point() else array
        array = np.asarray(array)
        return array.astype(np.float64) if array.dtype.kind == "f" else array

    def rounded(self, values: Any, dtype: str) -> np.ndarray:
        """The values, float64, as an array of that dtype holds them."""
        return self.numpy(self.array(values, dtype))

    def assert_close(
        self, actual: Any, expected: Any, dtype: str, *, tolerance: float | None = None
    ) -> None:
        """Fail unless `actual` is of this library, that dtype, and equal in shape and value.

        NaN equals NaN. Integers and booleans (dtype `int64`, `bool`) have to be exact.
        """
        expected = np.asarray(expected)
        assert array_api_compat.array_namespace(actual) is self.xp
        assert actual.dtype == self.dtypes.get(dtype, getattr(self.xp, dtype, None))
        assert tuple(actual.shape) == expected.shape
        limit = TOLERANCE.get(dtype, 0) if tolerance is None else tolerance
        np.testing.assert_allclose(
            self.numpy(actual), expected, rtol=limit, atol=limit, equal_nan=True
        )


@contextlib.contextmanager
def open_backend(name: str) -> Iterator[Backend]:
    """The backend of that name, in the settings it is to be tested in."""
    names = ["float16", "float32", "float64"]
    if name in ("numpy", "readonly"):
        xp = array_api_compat.array_namespace(np.empty(0))
        yield Backend(name, xp, {each: np.dtype(each) for each in names})
    elif name == "strict":
        xp = array_api_strict
        with xp.ArrayAPIStrictFlags(
            boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
        ):
            yield Backend(name, xp, {each: getattr(xp, each) for each in names[1:]})
    elif name == "torch":
        xp = array_api_compat.array_namespace(torch.empty(0))
        yield Backend(name, xp, {each: getattr(torch, each) for each in [*names, "bfloat16"]})
    else:
        import jax

        jax.config.update("jax_enable_x64", True)
        xp = jax.numpy
        yield Backend(name, xp, {each: xp.dtype(each) for each in [*names, "bfloat16"]})
