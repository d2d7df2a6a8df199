"""Guided backpropagation and Guided Grad-CAM against their equations."""

import numpy as np
import pytest

import camcore
from tests.backends import Backend
from tests.camcore import references


def test_maps_equal_the_equations(backend: Backend) -> None:
    """Activations (B, ...) and gradients (K, B, ...), as when several classes are asked for."""
    rng = np.random.default_rng(0)
    A, G = rng.random(size=(2, 4, 3, 2)), rng.normal(size=(3, 2, 4, 3, 2))
    guided = rng.normal(size=(3, 2, 3, 7, 5))
    arrays = [backend.array(values, "float64") for values in (A, G, guided)]
    fine = camcore.guided_backprop(arrays[2])
    both = camcore.guided_gradcam(*arrays)
    for k, n in np.ndindex(3, 2):
        summed = np.array([sum(guided[k, n, :, i, j]) for i, j in np.ndindex(7, 5)]).reshape(7, 5)
        backend.assert_close(fine[k, n, ...], summed, "float64")
        raw = references.gradcam(A[n].reshape(4, -1), G[k, n].reshape(4, -1)).reshape(3, 2)
        coarse = references.resize(np.maximum(raw, 0), (7, 5))
        backend.assert_close(both[k, n, ...], summed * coarse / (coarse.max() or 1), "float64")


def test_volumes_and_series(backend: Backend) -> None:
    for space, smaller in (((6,), (2,)), ((4, 3, 5), (2, 2, 3))):
        rank = len(space)
        guided = backend.array(np.ones((2, 3, *space)), "float64")
        features = backend.array(np.ones((2, 4, *smaller)), "float64")
        maps = camcore.guided_gradcam(features, features, guided, spatial_ndim=rank)
        backend.assert_close(maps, np.full((2, *space), 3.0), "float64")


def test_where_gradcam_sees_nothing_there_is_nothing(backend: Backend) -> None:
    ones = backend.array(np.ones((1, 2, 3, 3)))
    maps = camcore.guided_gradcam(ones, -ones, backend.array(np.ones((1, 3, 5, 5))))
    backend.assert_close(maps, np.zeros((1, 5, 5)), "float32")


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_unit_of_the_gradients_does_not_matter(backend: Backend, scale: float) -> None:
    rng = np.random.default_rng(0)
    A, G = rng.random(size=(2, 4, 3, 2)), rng.normal(size=(2, 4, 3, 2))
    guided = backend.array(rng.normal(size=(2, 3, 7, 5)))
    plain, scaled = (
        camcore.guided_gradcam(backend.array(A), backend.array(G * factor), guided)
        for factor in (1.0, scale)
    )
    backend.assert_close(scaled, backend.numpy(plain), "float32")


def test_wrong_arrays_are_refused(backend: Backend) -> None:
    ones = backend.array(np.ones((2, 3, 4, 5)))
    with pytest.raises(camcore.InputError, match=r"\(\.\.\., C, \*S\) with 2 spatial axes"):
        camcore.guided_backprop(backend.array(np.ones((4, 5))))
    with pytest.raises(camcore.InputError, match=r"gradients .*\(2, 3, 4, 5\) and \(2, 3, 4, 6\)"):
        camcore.guided_gradcam(ones, backend.array(np.ones((2, 3, 4, 6))), ones)
