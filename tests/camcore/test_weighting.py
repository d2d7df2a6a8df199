"""Weighting kernels against the papers' equations, autograd, and their own laws."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import camcore
from tests.backends import Backend, open_backend
from tests.camcore import references
from tests.camcore.strategies import features

METHODS = (
    camcore.gradcam,
    camcore.gradcam_plus_plus,
    camcore.xgradcam,
    camcore.hirescam,
    camcore.layercam,
    camcore.gradcam_elementwise,
)
WEIGHTS = (camcore.gradcam_weights, camcore.gradcam_plus_plus_weights, camcore.xgradcam_weights)
GRADIENT_FREE = (camcore.activation, camcore.fem, camcore.randomcam)
WITHOUT_GRADIENTS = (camcore.activation, camcore.fem, camcore.fem_weights)

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
every_kernel = pytest.mark.parametrize(
    "kernel", METHODS + WEIGHTS, ids=lambda kernel: kernel.__name__
)
without_gradients = pytest.mark.parametrize(
    "kernel", WITHOUT_GRADIENTS, ids=lambda kernel: kernel.__name__
)
Kernel = Callable[..., Any]


def test_every_method_of_the_registry_is_tested_here() -> None:
    kernels = {method.kernel for method in camcore.METHODS.values()}
    elsewhere = {kernel for kernel in kernels if kernel.__module__ != camcore.cam.__module__}
    # Of other evidence: see the tests of their weights.
    others = {camcore.smoothgradcam_plus_plus, camcore.shapleycam}
    assert kernels - elsewhere == {*METHODS, camcore.cam, *GRADIENT_FREE, *others}
    assert {kernel.__module__ for kernel in elsewhere} == {
        "camcore.projection",
        "camcore.fullgrad",
        "camcore.attention",
        "camcore.guided",
        "camcore.ablation",
        "camcore.masking",
    }


@every_kernel
@given(data=st.data())
def test_equals_the_paper(backend: Backend, kernel: Kernel, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    reference = getattr(references, kernel.__name__)
    expected = references.for_each_image(
        reference, case.activations, case.gradients, case.spatial_ndim
    )
    actual = kernel(*case.arrays(backend), spatial_ndim=case.spatial_ndim)
    if kernel is camcore.gradcam_weights:  # it has the gradients' leading axes
        assert tuple(actual.shape) == case.gradients.shape[: -case.spatial_ndim]
    backend.assert_close(actual, expected, case.dtype)


@given(data=st.data())
def test_weighted_sum_and_cam_equal_the_paper(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    # Only one number for each channel: the gradient at the first point.
    weights = case.gradients[(..., *(0,) * case.spatial_ndim)]
    spread = np.broadcast_to(weights[(..., *(None,) * case.spatial_ndim)], case.gradients.shape)
    expected = references.for_each_image(
        references.gradcam, case.activations, spread, case.spatial_ndim
    )
    activations, _ = case.arrays(backend)
    for kernel in (camcore.weighted_sum, camcore.cam):
        actual = kernel(
            activations, backend.array(weights, case.dtype), spatial_ndim=case.spatial_ndim
        )
        backend.assert_close(actual, expected, case.dtype)


@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("method", [camcore.gradcam_plus_plus, camcore.xgradcam])
def test_eps_is_the_equations(backend: Backend, method: Kernel, eps: float) -> None:
    rng = np.random.default_rng(0)
    A, G = rng.random((3, 4)) + 0.1, rng.normal(size=(3, 4)) * 0.01
    expected = getattr(references, method.__name__)(A, G, eps)
    actual = method(
        backend.array(A, "float64"), backend.array(G, "float64"), spatial_ndim=1, eps=eps
    )
    backend.assert_close(actual, expected, "float64")


@every_kernel
def test_equals_the_closed_form_of_a_pooled_linear_head(kernel: Kernel) -> None:
    """Gradients from autograd; the right-hand sides need none."""
    torch.manual_seed(0)
    A = torch.rand(3, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(8, 4).double()
    target = torch.tensor([2, 0, 3])
    scores = head(A.mean(dim=(-2, -1)))
    (G,) = torch.autograd.grad(scores.gather(1, target[:, None]).sum(), A)
    A = A.detach()

    points = 5 * 6
    g = head.weight.detach()[target] / points  # constant over space
    total = A.sum(dim=(-2, -1))
    relu = g.clamp(min=0)
    plus = points * relu * g**2 / (2 * g**2 + total * g**3 + 1e-6)
    closed_forms = {
        "gradcam_weights": g,
        "xgradcam_weights": g,
        "gradcam_plus_plus_weights": plus,
        "gradcam": torch.einsum("bk,bkhw->bhw", g, A),
        "hirescam": torch.einsum("bk,bkhw->bhw", g, A),
        "xgradcam": torch.einsum("bk,bkhw->bhw", g, A),
        "layercam": torch.einsum("bk,bkhw->bhw", relu, A),
        "gradcam_elementwise": torch.einsum("bk,bkhw->bhw", relu, A),
        "gradcam_plus_plus": torch.einsum("bk,bkhw->bhw", plus, A),
    }
    # XGrad-CAM's eps of 1e-7 beside a sum of about 15 is what is left over.
    torch.testing.assert_close(kernel(A, G), closed_forms[kernel.__name__], rtol=1e-7, atol=1e-9)
    cam = camcore.cam(A, head.weight.detach()[target])
    torch.testing.assert_close(cam / points, closed_forms["gradcam"])


@every_kernel
@given(data=st.data())
def test_a_batch_gives_what_its_images_give(
    backend: Backend, kernel: Kernel, data: st.DataObject
) -> None:
    case = data.draw(features(backend))
    A, G = np.broadcast_arrays(case.activations, case.gradients)
    batch = backend.numpy(
        kernel(
            backend.array(A, case.dtype),
            backend.array(G, case.dtype),
            spatial_ndim=case.spatial_ndim,
        )
    )
    for image in references.indices(A.shape[: -1 - case.spatial_ndim]):
        one = kernel(
            backend.array(A[image], case.dtype),
            backend.array(G[image], case.dtype),
            spatial_ndim=case.spatial_ndim,
        )
        backend.assert_close(one, batch[image], case.dtype)


@every_method
@given(data=st.data())
def test_the_order_of_channels_does_not_matter(
    backend: Backend, method: Kernel, data: st.DataObject
) -> None:
    case = data.draw(features(backend))
    axis = -1 - case.spatial_ndim
    order = data.draw(st.permutations(range(case.activations.shape[axis])))
    shuffled = method(
        backend.array(np.take(case.activations, order, axis), case.dtype),
        backend.array(np.take(case.gradients, order, axis), case.dtype),
        spatial_ndim=case.spatial_ndim,
    )
    expected = backend.numpy(method(*case.arrays(backend), spatial_ndim=case.spatial_ndim))
    backend.assert_close(shuffled, expected, case.dtype)


@every_kernel
@given(data=st.data())
def test_zero_gradients_give_zeros(backend: Backend, kernel: Kernel, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    A, _ = case.arrays(backend)
    actual = kernel(
        A, backend.array(case.gradients * 0, case.dtype), spatial_ndim=case.spatial_ndim
    )
    backend.assert_close(actual, np.zeros(actual.shape), case.dtype)


@pytest.mark.parametrize(
    "method", [camcore.gradcam_plus_plus, camcore.xgradcam], ids=lambda method: method.__name__
)
def test_eps_zero_and_silent_channels_give_zeros(backend: Backend, method: Kernel) -> None:
    zeros = backend.array(np.zeros((2, 3, 4, 4)))
    actual = method(zeros, zeros, eps=0.0)
    backend.assert_close(actual, np.zeros((2, 4, 4)), "float32")


@every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["activations", "gradients"])
def test_nonfinite_values_stay_in_their_image(
    backend: Backend, method: Kernel, bad: float, where: str
) -> None:
    rng = np.random.default_rng(0)
    A, G = rng.random((3, 2, 4, 5)), rng.normal(size=(3, 2, 4, 5))
    clean = backend.numpy(method(backend.array(A), backend.array(G)))
    (A if where == "activations" else G)[1, 0, 2, 3] = bad
    with np.errstate(invalid="ignore"):
        actual = backend.numpy(method(backend.array(A), backend.array(G)))
    if not (bad == -np.inf and method in (camcore.layercam, camcore.gradcam_elementwise)):
        # Those two rectify before they sum: minus infinity is as good as zero.
        assert not np.isfinite(actual[1]).all()
    np.testing.assert_allclose(actual[[0, 2]], clean[[0, 2]], rtol=1e-6)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_small_half_precision_gradients_survive(library: str) -> None:
    """Their mean would be zero in float16; times the activation it is not."""
    A, G = np.full((1, 1, 8, 8), 60000.0), np.zeros((1, 1, 8, 8))
    G[..., 0, 0] = 2.0**-24  # the smallest number float16 has
    with open_backend(library) as backend:
        actual = camcore.gradcam(backend.array(A, "float16"), backend.array(G, "float16"))
        expected = np.full((1, 8, 8), backend.rounded(60000.0, "float16") / 2**24 / 64)
        assert actual.dtype == backend.dtypes["float16"]
        np.testing.assert_allclose(backend.numpy(actual), expected, rtol=2e-3)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_sums_that_half_precision_cannot_hold_are_not_infinite(library: str) -> None:
    """2048 channels of 50 x 1 are more than 65504, the largest number of float16."""
    A, G = np.full((2, 2048, 1, 2), 50.0), np.ones((2, 2048, 1, 2))
    A[..., 1], G[1, 5, 0, 0] = 25.0, np.inf
    with open_backend(library) as backend:
        for kernel in (camcore.layercam, camcore.gradcam_elementwise, camcore.hirescam):
            raw = kernel(backend.array(A, "float16"), backend.array(G, "float16"))
            # What is infinite before remains so.
            expected = [[[65504, 51200]], [[np.inf, 51200]]]
            np.testing.assert_array_equal(backend.numpy(raw), expected)
            saliency_map = backend.numpy(camcore.postprocess(raw[:1, ...], None))
            np.testing.assert_allclose(saliency_map, [[[1, 0]]], atol=1e-3)


def test_what_is_no_array_is_told() -> None:
    ones = np.ones((1, 2, 3, 3))
    for other, name in ((None, "NoneType"), (5, "int"), ("a", "str")):
        with pytest.raises(camcore.InputError, match=f"one array library, got ndarray, {name}"):
            camcore.gradcam(ones, other)
        with pytest.raises(camcore.InputError, match="one array library, got"):
            camcore.select_classes(other, np.zeros((1, 1), np.int64))
        with pytest.raises(camcore.InputError, match="one array library, got"):
            camcore.tokens_to_grid(other, (2, 2))


@pytest.mark.parametrize("shape", [(1, 0, 3, 3), (1, 2, 0, 3)])
def test_features_without_channels_or_points_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(camcore.InputError, match="none of them empty"):
        camcore.gradcam(np.ones(shape), np.ones(shape))


def test_mixed_precision_is_promoted(backend: Backend) -> None:
    A = backend.array(np.ones((1, 2, 3, 3)), "float32")
    G = backend.array(np.full((1, 2, 3, 3), 0.1), "float64")
    backend.assert_close(camcore.gradcam(A, G), np.full((1, 3, 3), 0.2), "float64")


@every_kernel
def test_wrong_shapes_are_refused_with_both(backend: Backend, kernel: Kernel) -> None:
    ones = {shape: backend.array(np.ones(shape)) for shape in [(2, 3, 4, 4), (2, 3, 4, 5), (4, 4)]}
    with pytest.raises(camcore.InputError, match=r"\(2, 3, 4, 4\) and \(2, 3, 4, 5\)"):
        kernel(ones[2, 3, 4, 4], ones[2, 3, 4, 5])
    with pytest.raises(camcore.InputError, match=r"with 2 spatial axes.*\(4, 4\) and \(4, 4\)"):
        kernel(ones[4, 4], ones[4, 4])
    with pytest.raises(camcore.InputError, match="with 0 spatial axes"):
        kernel(ones[4, 4], ones[4, 4], spatial_ndim=0)
    with pytest.raises(
        camcore.InputError, match=r"leading axes.*\(2, 1, 4, 4\) and \(3, 1, 4, 4\)"
    ):
        kernel(backend.array(np.ones((2, 1, 4, 4))), backend.array(np.ones((3, 1, 4, 4))))


@pytest.mark.parametrize("kernel", [camcore.weighted_sum, camcore.cam])
def test_weights_of_another_length_are_refused(backend: Backend, kernel: Kernel) -> None:
    with pytest.raises(camcore.InputError, match=r"\(2, 3, 4, 4\) and \(2, 4\)"):
        kernel(backend.array(np.ones((2, 3, 4, 4))), backend.array(np.ones((2, 4))))
    with pytest.raises(camcore.InputError, match=r"\(2, 3, 4, 4\) and \(5, 3\)"):
        kernel(backend.array(np.ones((2, 3, 4, 4))), backend.array(np.ones((5, 3))))


@every_kernel
def test_other_than_floating_point_arrays_are_refused(backend: Backend, kernel: Kernel) -> None:
    floats, integers = backend.array(np.ones((1, 1, 2, 2))), backend.array([[[[1, 2], [3, 4]]]])
    with pytest.raises(camcore.InputError, match=r"floating-point arrays, got .*int64"):
        kernel(floats, integers)
    with pytest.raises(camcore.InputError, match="one array library"):
        kernel(floats, [[[[1.0, 2.0], [3.0, 4.0]]]])
    with pytest.raises(camcore.InputError, match="one array library, got list, list"):
        kernel([[1.0]], [[1.0]], spatial_ndim=1)


def test_arrays_of_two_libraries_are_refused() -> None:
    with pytest.raises(camcore.InputError, match="got ndarray, Tensor"):
        camcore.gradcam(np.ones((1, 1, 2, 2)), torch.ones(1, 1, 2, 2))


@without_gradients
@given(data=st.data())
def test_without_gradients_equals_the_paper(
    backend: Backend, kernel: Kernel, data: st.DataObject
) -> None:
    case = data.draw(features(backend))
    A, _ = case.arrays(backend)
    reference = getattr(references, kernel.__name__)
    expected = references.for_each_image(
        of_both(reference),
        case.activations,
        case.activations,
        case.spatial_ndim,
    )
    backend.assert_close(kernel(A, spatial_ndim=case.spatial_ndim), expected, case.dtype)


def of_both(reference: Kernel) -> Kernel:
    """A reference of activations as one of activations and gradients."""

    @functools.wraps(reference)
    def ignoring_gradients(a: np.ndarray, g: np.ndarray) -> Any:
        return reference(a)

    return ignoring_gradients


@pytest.mark.parametrize("k", [0.5, 1.0])
def test_k_is_the_number_of_standard_deviations(backend: Backend, k: float) -> None:
    A = np.random.default_rng(0).normal(size=(4, 50))
    expected = references.fem(A, k)
    assert not np.allclose(expected, references.fem(A))
    backend.assert_close(
        camcore.fem(backend.array(A, "float64"), spatial_ndim=1, k=k), expected, "float64"
    )


def test_a_constant_channel_has_no_weight(backend: Backend) -> None:
    """In float32 the mean of 49 times 0.1 may be below 0.1."""
    A = np.stack([np.full((7, 7), value) for value in (0.1, 0.7, 3.3, 1e7, 0.0)])
    backend.assert_close(camcore.fem_weights(backend.array(A)), np.zeros(5), "float32")


@pytest.mark.parametrize("seed", [0, 1, -5])
def test_random_weights_are_the_seeds(backend: Backend, seed: int) -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(2, 3, 6, 4, 5))
    weights = camcore.randomcam_weights(backend.array(A), seed=seed)
    noise = camcore.uniform_noise(np.empty(6), seed=seed)
    backend.assert_close(weights, 2 * noise - 1, "float32")
    assert len(np.unique(noise)) == 6
    expected = np.einsum("c,abchw->abhw", 2 * noise - 1, A)
    backend.assert_close(camcore.randomcam(backend.array(A), seed=seed), expected, "float32")


@pytest.mark.parametrize("method", GRADIENT_FREE, ids=lambda method: method.__name__)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_activations_stay_in_their_image(
    backend: Backend, method: Kernel, bad: float
) -> None:
    A = np.random.default_rng(0).random((3, 2, 4, 5))
    clean = backend.numpy(method(backend.array(A)))
    A[1, 0, 2, 3] = bad
    with np.errstate(invalid="ignore"):
        actual = backend.numpy(method(backend.array(A)))
    assert not np.isfinite(actual[1]).all()
    np.testing.assert_allclose(actual[[0, 2]], clean[[0, 2]], rtol=1e-6)


@pytest.mark.parametrize(
    "kernel",
    [*WITHOUT_GRADIENTS, camcore.randomcam, camcore.randomcam_weights],
    ids=lambda kernel: kernel.__name__,
)
def test_wrong_activations_are_refused(backend: Backend, kernel: Kernel) -> None:
    with pytest.raises(camcore.InputError, match=r"with 2 spatial axes.*got \(4, 4\)"):
        kernel(backend.array(np.ones((4, 4))))
    with pytest.raises(camcore.InputError, match=r"none of them empty; got \(3, 4, 0\)"):
        kernel(backend.array(np.ones((3, 4, 0))))
    with pytest.raises(camcore.InputError, match="0 spatial axes"):
        kernel(backend.array(np.ones((3, 4, 5))), spatial_ndim=0)
    with pytest.raises(camcore.InputError, match=r"floating-point arrays, got .*int64"):
        kernel(backend.array([[[1, 2], [3, 4]]]))


@given(data=st.data())
def test_smooth_weights_of_one_image_are_gradcam_plus_plus(
    backend: Backend, data: st.DataObject
) -> None:
    case = data.draw(features(backend))
    A, G = case.arrays(backend)
    for smooth, plain in (
        (camcore.smoothgradcam_plus_plus_weights, camcore.gradcam_plus_plus_weights),
        (camcore.smoothgradcam_plus_plus, camcore.gradcam_plus_plus),
    ):
        expected = backend.numpy(plain(A, G, spatial_ndim=case.spatial_ndim))
        actual = smooth(A, G[None, ...], spatial_ndim=case.spatial_ndim)
        backend.assert_close(actual, expected, case.dtype)


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_smooth_weights_average_the_powers(backend: Backend, eps: float) -> None:
    rng = np.random.default_rng(0)
    A, G = rng.random((2, 3, 7)), rng.normal(size=(5, 2, 3, 7))
    expected = [
        references.smoothgradcam_plus_plus_weights(A[b], G[:, b], eps) for b in range(len(A))
    ]
    actual = camcore.smoothgradcam_plus_plus_weights(
        backend.array(A, "float64"), backend.array(G, "float64"), spatial_ndim=1, eps=eps
    )
    backend.assert_close(actual, expected, "float64")


def test_smooth_weights_need_the_axis_of_noisy_images(backend: Backend) -> None:
    A = backend.array(np.ones((3, 4, 4)))
    for shape in [(3, 4, 4), (0, 3, 4, 4)]:
        with pytest.raises(camcore.InputError, match="at least one noisy image"):
            camcore.smoothgradcam_plus_plus(A, backend.array(np.ones(shape)))
    with pytest.raises(camcore.InputError, match=r"\(3, 4, 4\) and \(2, 3, 4, 5\)"):
        camcore.smoothgradcam_plus_plus(A, backend.array(np.ones((2, 3, 4, 5))))


def test_shapley_weights_of_a_pooled_linear_head() -> None:
    """With the target 2 z_c - logsumexp z, whose second derivatives are those of the logsumexp."""
    torch.manual_seed(0)
    A = torch.rand(3, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(8, 4).double()
    scores = head(A.mean(dim=(-2, -1)))
    target = (2 * scores[:, 2] - scores.logsumexp(-1)).sum()
    (G,) = torch.autograd.grad(target, A, create_graph=True)
    (HA,) = torch.autograd.grad(G, A, grad_outputs=A)

    W, points = head.weight.detach(), 5 * 6
    p, u = scores.softmax(-1).detach(), (scores - head.bias).detach()
    g = (2 * W[2] - p @ W) / points
    ha = -(p * (u - (p * u).sum(-1, keepdim=True))) @ W / points
    expected = g - 0.5 * ha
    A, G = A.detach(), G.detach()
    torch.testing.assert_close(camcore.shapleycam_weights(A, G, HA), expected)
    expected_maps = torch.einsum("bk,bkhw->bhw", expected, A)
    torch.testing.assert_close(camcore.shapleycam(A, G, HA), expected_maps)
    assert (expected - g).abs().max() > 1e-3 * g.abs().max()


def test_shapley_without_curvature_is_gradcam(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    A, G = backend.array(rng.random((2, 3, 4, 4))), backend.array(rng.normal(size=(2, 3, 4, 4)))
    expected = backend.numpy(camcore.gradcam(A, G))
    backend.assert_close(camcore.shapleycam(A, G, 0 * G), expected, "float32")
    for arrays in ((A, G, G[..., :3]), (A, G[..., :3], G)):
        with pytest.raises(camcore.InputError, match=r"\(2, 3, 4, 4\) and \(2, 3, 4, 3\)"):
            camcore.shapleycam(*arrays)
