"""The same arrays through pytorch-grad-cam 1.5.7: a user who moves over gets the same map."""

from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import camcore

pytorch_grad_cam: ModuleType = pytest.importorskip(
    "pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"
)
image_utils = pytest.importorskip("pytorch_grad_cam.utils.image")

# pytorch-grad-cam's class for each method. It has no CAM: that one is not for arbitrary heads.
CLASSES = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "gradcam-elementwise": pytorch_grad_cam.GradCAMElementWise,
}
WEIGHTS = {
    "gradcam": camcore.gradcam_weights,
    "gradcam++": camcore.gradcam_plus_plus_weights,
    "xgradcam": camcore.xgradcam_weights,
}

ranks = st.sampled_from([2, 3])
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([1.0, 1e-2, 1e-4])


def test_every_method_has_a_class() -> None:
    assert set(CLASSES) == set(camcore.METHODS) - {"cam"}


def features(seed: int, rank: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (2, 5, *rng.integers(1, 8, size=rank))
    gradients = rng.normal(size=shape) * (rng.random(shape) > 0.2) * scale
    return np.maximum(rng.normal(size=shape), 0), gradients


@pytest.mark.parametrize("method", WEIGHTS)
@given(seed=seeds, rank=ranks, scale=scales)
def test_weights(method: str, seed: int, rank: int, scale: float) -> None:
    A, G = features(seed, rank, scale)
    expected = CLASSES[method].get_cam_weights(None, None, None, None, A, G)
    np.testing.assert_allclose(WEIGHTS[method](A, G, spatial_ndim=rank), expected, rtol=1e-10)


@pytest.mark.parametrize("method", CLASSES)
@given(seed=seeds, rank=ranks, scale=scales)
def test_raw_maps(method: str, seed: int, rank: int, scale: float) -> None:
    A, G = features(seed, rank, scale)
    # Unbound, for an instance wants a model and puts hooks on it.
    peer = CLASSES[method]
    weights = SimpleNamespace(get_cam_weights=partial(peer.get_cam_weights, None))
    expected = peer.get_cam_image(weights, None, None, None, A, G, eigen_smooth=False)
    actual = camcore.get_method(method).kernel(A, G, spatial_ndim=rank)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12 * scale)


@given(seed=seeds, size=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_scaling(seed: int, size: tuple[int, int]) -> None:
    """Min-max and resize, then min-max: what one layer goes through."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(2, *rng.integers(1, 15, size=2))).astype(np.float32)
    once = image_utils.scale_cam_image(np.maximum(raw, 0), size[::-1])
    expected = image_utils.scale_cam_image(once)
    np.testing.assert_allclose(camcore.postprocess(raw, size), expected, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(
        camcore.normalize(raw), image_utils.scale_cam_image(raw), rtol=1e-5, atol=1e-7
    )
