"""Deep Feature Factorization against scikit-learn's NMF, from the same start."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import camcore
from tests.backends import Backend

decomposition = pytest.importorskip("sklearn.decomposition")


@settings(max_examples=20)
@given(data=st.data())
def test_equals_scikit_learn(backend: Backend, data: st.DataObject) -> None:
    batch, channels, concepts = (data.draw(st.integers(1, 4)) for _ in range(3))
    channels += 2
    size = tuple(data.draw(st.integers(2, 5)) for _ in range(2))
    iterations = data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    activations = rng.normal(size=(batch, channels, *size)).astype(np.float32)
    given_ = camcore.dff(backend.array(activations), concepts=concepts, iterations=iterations)
    start = camcore.dff_start(backend.array(activations), concepts=concepts)
    for n, each in enumerate(np.maximum(activations, 0)):
        nmf = decomposition.NMF(concepts, solver="mu", init="custom", max_iter=iterations, tol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it did not converge, and was not to
            maps = nmf.fit_transform(
                each.reshape(channels, -1).T,
                W=backend.numpy(start.maps)[n].reshape(concepts, -1).T.astype(np.float32),
                H=backend.numpy(start.directions)[n].astype(np.float32),
            )
        scale = max(maps.max(), nmf.components_.max())
        close = {"rtol": 0, "atol": 1e-3 * scale}
        np.testing.assert_allclose(
            backend.numpy(given_.maps)[n], maps.T.reshape(concepts, *size), **close
        )
        np.testing.assert_allclose(backend.numpy(given_.directions)[n], nmf.components_, **close)


def test_parts_that_are_apart_are_told_apart(backend: Backend) -> None:
    """Two regions of different channels become two concepts, each where its region is."""
    activations = np.zeros((4, 6, 6))
    activations[:2, :, :3], activations[2:, :, 3:] = 2.0, 3.0
    maps, directions = camcore.dff(backend.array(activations), concepts=2, iterations=200)
    maps, directions = backend.numpy(maps), backend.numpy(directions)
    sides = {int(each[:, 3:].sum() > each[:, :3].sum()) for each in maps}
    assert sides == {0, 1}
    rebuilt = np.einsum("khw,kc->chw", maps, directions)
    np.testing.assert_allclose(rebuilt, activations, atol=0.05)


def test_an_image_changes_no_other_and_channels_may_be_few(backend: Backend) -> None:
    activations = backend.array(np.random.default_rng(0).random((3, 1, 5, 4)))
    together = camcore.dff(activations, concepts=2)
    alone = camcore.dff(activations[1:2, ...], concepts=2)
    np.testing.assert_allclose(
        backend.numpy(together.maps)[1], backend.numpy(alone.maps)[0], rtol=1e-4, atol=1e-6
    )
    series = camcore.dff(activations[0, ...], concepts=2, spatial_ndim=1)
    assert tuple(series.maps.shape) == (1, 2, 4)


def test_what_concepts_add_is_what_a_classifier_says_of_what_they_rebuild(
    backend: Backend,
) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(5, 7))
    factors = camcore.dff(backend.array(rng.random((2, 7, 4, 3))), concepts=3)
    scores = backend.numpy(camcore.concept_scores(factors, backend.array(weights)))
    maps, directions = backend.numpy(factors.maps), backend.numpy(factors.directions)
    rebuilt = np.einsum("bkhw,bkc->bchw", maps, directions).mean((2, 3))
    assert scores.shape == (2, 3, 5)
    np.testing.assert_allclose(scores.sum(1), rebuilt @ weights.T, rtol=1e-5)
    with pytest.raises(camcore.InputError, match="reads 6 channels, the concepts have 7"):
        camcore.concept_scores(factors, backend.array(weights[:, :6]))


def test_nothing_is_made_of_nothing(backend: Backend) -> None:
    maps, directions = camcore.dff(backend.array(-np.ones((3, 4, 4))), concepts=2)
    assert not backend.numpy(maps).any()
    assert np.isfinite(backend.numpy(directions)).all()


def test_wrong_arguments(backend: Backend) -> None:
    activations = backend.array(np.ones((3, 4, 4)))
    with pytest.raises(camcore.InputError, match="one concept or more"):
        camcore.dff(activations, concepts=0)
    with pytest.raises(camcore.InputError, match="one iteration or more"):
        camcore.dff(activations, iterations=0)
    with pytest.raises(camcore.InputError, match="floating-point activations"):
        camcore.dff(backend.array(np.ones((3, 4, 4), dtype=np.int64)))
