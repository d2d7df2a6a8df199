"""Activations, gradients and maps of all the shapes and precisions that kernels accept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.backends import Backend


@dataclass(frozen=True)
class Features:
    """Activations and gradients, float64, holding only values that `dtype` can hold."""

    activations: np.ndarray
    gradients: np.ndarray
    dtype: str
    spatial_ndim: int

    def arrays(self, backend: Backend) -> tuple[Any, Any]:
        """Both as the backend's arrays."""
        return (
            backend.array(self.activations, self.dtype),
            backend.array(self.gradients, self.dtype),
        )


@st.composite
def features(draw: st.DrawFn, backend: Backend) -> Features:
    """Rectified activations and gradients of both signs, with leading axes that broadcast.

    Values are drawn from a seed: shapes and precisions are what shrinking should search.
    """
    dtype = draw(st.sampled_from(sorted(backend.dtypes)))
    if backend.name == "jax":  # it compiles every operator anew for every shape
        leading, core = draw(st.sampled_from([([], [3, 4]), ([2, 3], [4, 2, 3]), ([0], [1, 2, 2])]))
    else:
        leading = draw(st.lists(st.integers(0, 3), max_size=2))
        core = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    if len(leading) == 2 and draw(st.booleans()):
        shape = [leading[0], 1, *core]  # one image, several targets
    else:
        shape = [*leading, *core]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    activations = np.maximum(rng.normal(size=shape), 0)
    gradients = rng.normal(size=[*leading, *core]) * (rng.random([*leading, *core]) > 0.2)
    return Features(
        backend.rounded(activations, dtype),
        backend.rounded(gradients, dtype),
        dtype,
        spatial_ndim=len(core) - 1,
    )


@dataclass(frozen=True)
class Maps:
    """Raw maps (..., *S), float64, holding only values that `dtype` can hold."""

    values: np.ndarray
    dtype: str
    spatial_ndim: int

    def array(self, backend: Backend) -> Any:
        """The maps as the backend's array."""
        return backend.array(self.values, self.dtype)


@st.composite
def maps(draw: st.DrawFn, backend: Backend) -> Maps:
    """Maps of one to three spatial axes, of both signs, some of them constant."""
    dtype = draw(st.sampled_from(sorted(backend.dtypes)))
    if backend.name == "jax":  # it compiles every operator anew for every shape
        leading, space = draw(st.sampled_from([([], [5]), ([2, 3], [4, 3]), ([0], [1, 2, 6])]))
    else:
        leading = draw(st.lists(st.integers(0, 3), max_size=2))
        space = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=[*leading, *space])
    if draw(st.booleans()):
        values = np.full_like(values, draw(st.sampled_from([0.0, 0.3, -2.0])))
    return Maps(backend.rounded(values, dtype), dtype, spatial_ndim=len(space))
