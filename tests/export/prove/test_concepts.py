"""The concepts that files are compared with are scikit-learn's, from the same start."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore.export.prove import concepts as reference
from camcore.factorization import DFF_ITERATIONS

decomposition = pytest.importorskip("sklearn.decomposition")


@settings(max_examples=15)
@given(data=st.data())
def test_equals_scikit_learn(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    channels, concepts, height, width = (data.draw(st.integers(2, 5)) for _ in range(4))
    activations = rng.normal(size=(channels, height, width))
    maps = rng.random((concepts, height, width)) + 0.1
    directions = rng.random((concepts, channels)) + 0.1
    found_maps, found_directions = reference._factorized(activations, maps, directions)
    nmf: Any = decomposition.NMF(
        concepts, solver="mu", init="custom", max_iter=DFF_ITERATIONS, tol=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it did not converge, and was not to
        expected = nmf.fit_transform(
            np.maximum(activations, 0).reshape(channels, -1).T,
            W=np.ascontiguousarray(maps.reshape(concepts, -1).T),
            H=directions.copy(),
        )
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(found_maps.reshape(concepts, -1).T, expected, **close)
    np.testing.assert_allclose(found_directions, nmf.components_, **close)


def test_nothing_of_the_kernel_is_in_them() -> None:
    assert not hasattr(reference, "dff")
    assert not hasattr(reference, "concept_scores")
