"""The same arrays through pytorch-grad-cam 1.5.7: a user who moves over gets the same map.

Where a principal component is involved it is the same up to its sign, which pytorch-grad-cam leaves
to LAPACK, and Seg-Eigen-CAM, which does not, has the same sign too.
"""

from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import camcore

pytorch_grad_cam: ModuleType = pytest.importorskip(
    "pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"
)
seg_eigen_cam = pytest.importorskip("pytorch_grad_cam.seg_eigen_cam")
image_utils = pytest.importorskip("pytorch_grad_cam.utils.image")

# pytorch-grad-cam's class for each method. It has no CAM, for that is not for arbitrary heads, no
# activation map, no Smooth Grad-CAM++, and its RandomCAM has no seed.
WITHOUT_A_PEER = {"cam", "activation", "randomcam", "smoothgradcam++", "legrad"}
# Of another target, of several layers, of every bias or ReLU, of second derivatives, of many
# passes: beside the peer's whole classes in tests/export.
PASSES = {name for name, method in camcore.METHODS.items() if "scores" in method.needs}
WHOLE = PASSES | {
    "finercam",
    "refinecam",
    "fullgrad",
    "guided-backprop",
    "guided-gradcam",
    "shapleycam",
}
CLASSES = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "gradcam-elementwise": pytorch_grad_cam.GradCAMElementWise,
    "fem": pytorch_grad_cam.FEM,
}
COMPONENTS = {
    "eigencam": pytorch_grad_cam.EigenCAM,
    "eigengradcam": pytorch_grad_cam.EigenGradCAM,
    "segeigencam": seg_eigen_cam.SegEigenCAM,
    "kpcacam": pytorch_grad_cam.KPCA_CAM,
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
    assert {*CLASSES, *COMPONENTS} == set(camcore.METHODS) - WITHOUT_A_PEER - WHOLE


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


def peer_map(
    method: str, activations: np.ndarray, gradients: np.ndarray, eigen_smooth: bool = False
) -> np.ndarray:
    """The peer's raw map. Unbound, for an instance wants a model and puts hooks on it."""
    peer = (CLASSES | COMPONENTS)[method]
    instance = SimpleNamespace(k=2, kernel="sigmoid", gamma=None)
    if hasattr(peer, "get_cam_weights"):
        instance.get_cam_weights = partial(peer.get_cam_weights, None)
    result: np.ndarray = peer.get_cam_image(
        instance, None, None, None, activations, gradients, eigen_smooth
    )
    return result


def our_map(method: str, activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    row = camcore.get_method(method)
    arrays = (activations,) if row.needs == "activations" else (activations, gradients)
    result: np.ndarray = row.kernel(*arrays, spatial_ndim=activations.ndim - 2)
    return result


@pytest.mark.parametrize("method", CLASSES)
@given(seed=seeds, rank=ranks, scale=scales)
def test_raw_maps(method: str, seed: int, rank: int, scale: float) -> None:
    A, G = features(seed, rank, scale)
    # A single peak among five points stands out by exactly two standard deviations.
    assume(method != "fem" or A[0, 0].size != 5)
    expected = peer_map(method, A, G)
    np.testing.assert_allclose(our_map(method, A, G), expected, rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("method", COMPONENTS)
@given(seed=seeds, rank=ranks, scale=scales)
def test_raw_maps_up_to_the_sign(method: str, seed: int, rank: int, scale: float) -> None:
    A, G = features(seed, rank, scale)
    # One direction that stands out, so that two decompositions have one answer to agree on.
    A = A + np.linspace(0, 5, A[0, 0].size).reshape(A.shape[2:])
    G = G + scale
    for actual, expected in zip(our_map(method, A, G), peer_map(method, A, G), strict=True):
        size = np.abs(expected).max()
        tie = abs(expected.max() + expected.min()) <= 1e-5 * size
        if (actual * expected).sum() < 0 and (method != "segeigencam" or tie):
            expected = -expected
        # The peer's are rounded to float32.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * max(size, 1e-7))


@pytest.mark.parametrize("method", sorted(CLASSES.keys() - {"fem"}))
@given(seed=seeds, rank=ranks)
def test_eigen_smooth_up_to_the_sign(method: str, seed: int, rank: int) -> None:
    A, G = features(seed, rank, 1.0)
    A = A + np.linspace(0, 5, A[0, 0].size).reshape(A.shape[2:])
    G = G + 1
    row = camcore.get_method(method)
    assert row.weights is not None
    weights = row.weights(A, G, spatial_ndim=rank)
    smooth = camcore.smooth_by_component(A, weights, spatial_ndim=rank, per_point=row.per_point)
    for actual, expected in zip(smooth, peer_map(method, A, G, True), strict=True):
        expected = -expected if (actual * expected).sum() < 0 else expected
        limit = 1e-6 * max(np.abs(expected).max(), 1e-7)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


def test_the_peers_fem_is_not_smoothed() -> None:
    """A divergence: there it takes the option and does nothing with it, here it is smoothed."""
    A, G = features(1, 2, 1.0)
    np.testing.assert_array_equal(peer_map("fem", A, G, True), peer_map("fem", A, G))
    smooth = camcore.smooth_by_component(A, camcore.fem_weights(A))
    assert np.abs(smooth - camcore.fem(A)).max() > 0.01


@pytest.mark.parametrize("gamma", [None, 0.05])
def test_kpcacam_above_the_peers_dense_solver(gamma: float | None) -> None:
    """Above 200 points scikit-learn takes ARPACK, and camcore above 512 a Krylov space."""
    for side in (16, 24):
        A = np.random.default_rng(side).random((1, 8, side, side)) * np.linspace(0, 2, side)
        instance = SimpleNamespace(kernel="sigmoid", gamma=gamma)
        expected = pytorch_grad_cam.KPCA_CAM.get_cam_image(
            instance, None, None, None, A, None, False
        )
        actual = camcore.kpcacam(A, gamma=gamma)
        expected = expected * np.sign((actual * expected).sum())
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_shapley_weights() -> None:
    torch.manual_seed(0)
    A = torch.rand(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    score = (A.mean(dim=(-2, -1)) @ torch.rand(5, 3, dtype=torch.float64)).exp().sum()
    (G,) = torch.autograd.grad(score, A, create_graph=True)
    (HA,) = torch.autograd.grad(G, A, grad_outputs=A, retain_graph=True)
    hooks = SimpleNamespace(reshape_transform=None)
    instance = SimpleNamespace(activations_and_grads=hooks)
    expected = pytorch_grad_cam.ShapleyCAM.get_cam_weights(instance, None, None, None, A, G)
    actual = camcore.shapleycam_weights(A.detach(), G.detach(), HA)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_fullgrad() -> None:
    rng = np.random.default_rng(0)
    size = (12, 10)
    image = torch.from_numpy(rng.normal(size=(2, 3, *size)).astype(np.float32)).requires_grad_()
    image.grad = torch.from_numpy(rng.normal(size=image.shape).astype(np.float32))
    biases = [rng.normal(size=channels).astype(np.float32) for channels in (4, 6)]
    gradients = [
        rng.normal(size=(2, len(bias), *space)).astype(np.float32)
        for bias, space in zip(biases, [(6, 5), (3, 3)], strict=True)
    ]
    peer = pytorch_grad_cam.FullGrad
    instance = SimpleNamespace(
        bias_data=biases,
        activations_and_grads=SimpleNamespace(gradients=list(map(torch.from_numpy, gradients))),
        get_target_width_height=lambda _: size[::-1],
    )
    layers = peer.compute_cam_per_layer(instance, image, None, False)
    expected = peer.aggregate_multi_layers(instance, layers)

    terms = [camcore.fullgrad_input(image.detach().numpy(), image.grad.numpy())]
    terms += map(camcore.fullgrad_bias, biases, gradients)
    total = camcore.aggregate([camcore.resize(term, size) for term in terms], how="sum")
    np.testing.assert_allclose(layers[:, 0], total, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(camcore.normalize(total), expected, rtol=1e-5, atol=1e-5)


def test_several_layers() -> None:
    rng = np.random.default_rng(0)
    layers = rng.random((3, 2, 6, 5), dtype=np.float32)
    peer = pytorch_grad_cam.GradCAM
    expected = peer.aggregate_multi_layers(None, [layer[:, None] for layer in layers])
    actual = camcore.normalize(camcore.aggregate(list(layers)))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    refine = SimpleNamespace(base_cam_per_layer=[partial(_same, layer) for layer in layers])
    expected = pytorch_grad_cam.RefineCAM.forward(refine, None)
    actual = camcore.normalize(camcore.aggregate(list(layers), how="product"))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def _same(layer: np.ndarray, *_: object) -> np.ndarray:
    return layer


def test_nan_is_not_zero() -> None:
    """A divergence: the peer's component takes a NaN for 0, camcore's map says NaN."""
    A, G = features(0, 2, 1.0)
    A[0, 0, 0, 0] = np.nan
    assert np.isfinite(peer_map("eigencam", A, G)).all()
    actual = our_map("eigencam", A, G)
    assert np.isnan(actual[0]).all()
    assert np.isfinite(actual[1]).all()


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
