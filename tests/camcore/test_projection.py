"""Projections against the singular value decomposition, and their own laws."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import camcore
from tests.backends import TOLERANCE, Backend
from tests.camcore import exporting, references
from tests.camcore.strategies import features

Kernel = Callable[..., Any]
Gram = Literal["space", "channels"] | None

# The map of each kernel as the first component of a function of one image's a and g.
FEATURES = {
    camcore.eigencam: lambda a, g: a,
    camcore.eigengradcam: lambda a, g: a * g,
    camcore.segeigencam: lambda a, g: a * abs(g),
}
by_kernel = pytest.mark.parametrize("kernel", FEATURES, ids=lambda kernel: kernel.__name__)
every_kernel = pytest.mark.parametrize(
    "kernel", [*FEATURES, camcore.kpcacam], ids=lambda kernel: kernel.__name__
)


def call(kernel: Kernel, activations: Any, gradients: Any, **options: Any) -> Any:
    if kernel in (camcore.eigencam, camcore.kpcacam):
        return kernel(activations, **options)
    return kernel(activations, gradients, **options)


def singular_values(*values: float, channels: int, points: int, seed: int = 0) -> np.ndarray:
    """Centred features (channels, points) with these singular values."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(channels, len(values))))[0]
    right = rng.normal(size=(points, len(values)))
    right = np.linalg.qr(right - right.mean(axis=0))[0]
    result: np.ndarray = left * values @ right.T
    return result


def assert_same_direction(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@by_kernel
@given(data=st.data())
def test_equals_the_singular_vector(backend: Backend, kernel: Kernel, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    gram = data.draw(st.sampled_from(["space", "channels", None]))
    maps = call(kernel, *case.arrays(backend), spatial_ndim=case.spatial_ndim, gram=gram)
    x = FEATURES[kernel](case.activations, case.gradients)
    leading, S = x.shape[: -1 - case.spatial_ndim], x.shape[-case.spatial_ndim :]
    assert tuple(maps.shape) == leading + S
    for image in references.indices(leading):
        samples = x[image].reshape(x.shape[len(leading)], -1)
        if nearly_undefined(samples):
            continue
        expected = references.first_component(samples)
        if kernel is camcore.segeigencam:
            expected = expected * np.sign(expected.max() + expected.min())
        actual = backend.numpy(maps)[image].reshape(-1)
        # A gap of a hundredth makes rounding a hundred times larger.
        tolerance = 100 * TOLERANCE[case.dtype] * np.abs(samples).max()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def nearly_undefined(samples: np.ndarray) -> bool:
    """Whether rounding may choose the component or its sign."""
    centred = samples - samples.mean(axis=1, keepdims=True)
    first, second, *_ = [*np.linalg.svd(centred, compute_uv=False), 0.0]
    if second >= 0.99 * first:
        return True
    component = references.first_component(samples)
    peaks = component.max() + component.min()
    agreement = component @ centred.sum(axis=0)
    return bool(
        abs(peaks) < 0.05 * np.abs(component).max()
        or abs(agreement) < 0.05 * np.linalg.norm(component) * np.linalg.norm(centred)
    )


@pytest.mark.parametrize("gram", ["space", "channels", None])
@pytest.mark.parametrize("per_point", [False, True])
def test_smoothing_is_the_component_of_weighted_activations(
    backend: Backend, per_point: bool, gram: Gram
) -> None:
    rng = np.random.default_rng(0)
    A = rng.random((2, 3, 4, 5)) * np.linspace(0, 3, 5)
    weights = rng.normal(size=A.shape if per_point else A.shape[:2])
    weighted = A * (weights if per_point else weights[..., None, None])
    expected = [references.first_component(x.reshape(3, -1)).reshape(4, 5) for x in weighted]
    actual = camcore.smooth_by_component(
        backend.array(A, "float64"),
        backend.array(weights, "float64"),
        per_point=per_point,
        gram=gram,
    )
    backend.assert_close(actual, np.stack(expected), "float64", tolerance=1e-10)


def test_weights_to_smooth_with_are_checked(backend: Backend) -> None:
    A, weights = backend.array(np.ones((2, 3, 4, 5))), backend.array(np.ones((2, 3)))
    with pytest.raises(camcore.InputError, match=r"\(..., C, \*S\).*\(2, 3, 4, 5\) and \(2, 3\)"):
        camcore.smooth_by_component(A, weights, per_point=True)
    with pytest.raises(camcore.InputError, match=r"weights \(..., C\) .* and \(2, 3, 4, 5\)"):
        camcore.smooth_by_component(A, A)


@pytest.mark.parametrize("gram", ["space", "channels"])
@pytest.mark.parametrize("ratio", [0.5, 0.99, 0.999])
@pytest.mark.parametrize(("channels", "points"), [(300, 49), (12, 100), (40, 41)])
def test_close_singular_values(
    backend: Backend, channels: int, points: int, ratio: float, gram: Gram
) -> None:
    values = [1.0, ratio, *(ratio * 0.9 ** np.arange(1, 9))]
    x = singular_values(*values, channels=channels, points=points)
    for dtype in ("float32", "float64"):
        rounded = backend.rounded(x, dtype)
        actual = camcore.first_component(backend.array(x, dtype), spatial_ndim=1, gram=gram)
        assert_same_direction(backend.numpy(actual), references.first_component(rounded), 2e-6)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8])
@pytest.mark.parametrize("gram", ["space", "channels"])
def test_the_scale_of_features_is_the_scale_of_maps(
    backend: Backend, scale: float, gram: Gram
) -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 5))
    once = backend.numpy(camcore.first_component(backend.array(x, "float32"), gram=gram))
    scaled = camcore.first_component(backend.array(x * scale, "float32"), gram=gram)
    assert_same_direction(backend.numpy(scaled), once * scale, 1e-6)


@pytest.mark.parametrize("shape", [(512, 7, 7), (96, 14, 14), (16, 40, 40)])
def test_at_the_sizes_of_real_layers(shape: tuple[int, ...]) -> None:
    """Noise: its largest singular values are close, as a trained network's are not."""
    x = np.random.default_rng(0).normal(size=shape).clip(min=0).astype(np.float32)
    expected = references.first_component(x.reshape(shape[0], -1).astype(np.float64))
    actual = camcore.first_component(torch.from_numpy(x)).numpy().reshape(-1)
    assert_same_direction(actual, expected, 1e-6)


@pytest.mark.parametrize(
    ("channels", "points"), [pytest.param(9, 30, id="squared"), pytest.param(9, 600, id="krylov")]
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("gamma", "coef"), [(None, 1.0), (0.5, 0.0)])
def test_kpcacam_equals_the_eigenvector(
    backend: Backend, channels: int, points: int, scale: float, gamma: float | None, coef: float
) -> None:
    """At the largest scale a third of the kernel matrix's norm is in negative eigenvalues."""
    rng = np.random.default_rng(0)
    x = scale * rng.normal(size=(channels, 1)) * rng.random((1, points))
    x = x + scale * 0.3 * rng.normal(size=(channels, points))
    actual = camcore.kpcacam(backend.array(x, "float64"), spatial_ndim=1, gamma=gamma, coef=coef)
    expected = references.kpcacam(x, gamma, coef)
    assert_same_direction(backend.numpy(actual), expected, 1e-6)


def test_kpcacam_of_a_kernel_without_a_positive_eigenvalue_is_zero(backend: Backend) -> None:
    x = backend.array([[-1.0, 1.0]], "float64")
    assert references.kpcacam(np.asarray([[-1.0, 1.0]]), gamma=-1.0).any() == 0
    actual = camcore.kpcacam(x, spatial_ndim=1, gamma=-1.0)
    backend.assert_close(actual, [0.0, 0.0], "float64")


def test_the_sign_is_the_channel_means(backend: Backend) -> None:
    rise = np.linspace(0, 1, 12).reshape(3, 4)
    for sign in (1, -1):
        x = np.stack([sign * rise, sign * 2 * rise, -sign * rise])
        for kernel in (camcore.first_component, camcore.kpcacam):
            actual = backend.numpy(kernel(backend.array(x)))
            assert np.sign(actual[-1, -1] - actual[0, 0]) == sign


@pytest.mark.parametrize("flip", [1, -1])
def test_without_a_mean_the_farthest_value_is_positive(backend: Backend, flip: int) -> None:
    """As behind a LayerNorm, where the channels of each point sum to zero but for rounding."""
    peak = np.asarray([0.0, 0.0, 0.0, 1.0, 0.1])
    x = flip * np.stack([peak, -peak]) + np.asarray([1e-7, 0.0, 0.0, 0.0, -1e-7])
    expected = np.sqrt(2) * (peak - peak.mean())
    actual = camcore.first_component(backend.array(x, "float64"), spatial_ndim=1)
    assert_same_direction(backend.numpy(actual), expected, 1e-5)
    assert camcore.kpcacam(backend.array(x, "float64"), spatial_ndim=1)[3] > 0


def test_segeigencam_turns_the_farthest_value_up(backend: Backend) -> None:
    hole = np.asarray([[1.0, 1.0, 1.0, 0.0, 1.0]])
    ones = backend.array(np.ones((1, 5)))
    assert backend.numpy(camcore.eigencam(backend.array(hole), spatial_ndim=1))[3] < 0
    turned = camcore.segeigencam(backend.array(hole), ones, spatial_ndim=1)
    backend.assert_close(turned, 0.2 - np.asarray([0.4, 0.4, 0.4, -0.6, 0.4]), "float32")


@every_kernel
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 1), (1, 4, 5), (2, 30, 30)])
def test_constant_features_give_zeros(
    backend: Backend, kernel: Kernel, shape: tuple[int, ...]
) -> None:
    for value in (0.0, 0.1, -3e7):
        x = backend.array(np.full(shape, value), "float32")
        actual = call(kernel, x, x * 0 + 1)
        backend.assert_close(actual, np.zeros(shape[1:]), "float32", tolerance=1e-16)


@every_kernel
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("gram", ["space", "channels"])
def test_a_nonfinite_image_is_nan_throughout_and_alone(
    backend: Backend, kernel: Kernel, bad: float, gram: Gram
) -> None:
    options = {} if kernel is camcore.kpcacam else {"gram": gram}
    rng = np.random.default_rng(0)
    A, G = rng.random((3, 2, 4, 5)), rng.normal(size=(3, 2, 4, 5))
    clean = backend.numpy(call(kernel, backend.array(A), backend.array(G), **options))
    A[1, 0, 2, 3] = bad
    with np.errstate(invalid="ignore"):
        actual = backend.numpy(call(kernel, backend.array(A), backend.array(G), **options))
    assert np.isnan(actual[1]).all()
    np.testing.assert_allclose(actual[[0, 2]], clean[[0, 2]], rtol=1e-6)


@every_kernel
def test_the_order_of_channels_does_not_matter(backend: Backend, kernel: Kernel) -> None:
    rng = np.random.default_rng(1)
    A, G = rng.random((2, 7, 4, 4)), rng.normal(size=(2, 7, 4, 4))
    order = rng.permutation(7)
    expected = backend.numpy(call(kernel, backend.array(A), backend.array(G)))
    shuffled = call(kernel, backend.array(A[:, order]), backend.array(G[:, order]))
    backend.assert_close(shuffled, expected, "float32")


def test_no_image_and_several_targets(backend: Backend) -> None:
    nothing = camcore.eigencam(backend.array(np.zeros((0, 3, 4, 5))))
    backend.assert_close(nothing, np.zeros((0, 4, 5)), "float32")
    rng = np.random.default_rng(1)
    A, G = rng.random((2, 1, 3, 4, 4)), rng.normal(size=(2, 6, 3, 4, 4))
    maps = backend.numpy(camcore.eigengradcam(backend.array(A), backend.array(G)))
    assert maps.shape == (2, 6, 4, 4)
    one = camcore.eigengradcam(backend.array(A[1, 0]), backend.array(G[1, 4]))
    backend.assert_close(one, maps[1, 4], "float32")


@every_kernel
def test_wrong_shapes_and_options_are_refused(backend: Backend, kernel: Kernel) -> None:
    A = backend.array(np.ones((2, 3, 4, 4)))
    with pytest.raises(camcore.InputError, match="0 spatial axes"):
        call(kernel, A, A, spatial_ndim=0)
    with pytest.raises(camcore.InputError, match="4 spatial axes"):
        call(kernel, A, A, spatial_ndim=4)
    empty = backend.array(np.ones((2, 3, 0, 4)))
    with pytest.raises(camcore.InputError, match=r"none of them empty.*; got \(2, 3, 0, 4\)"):
        call(kernel, empty, empty)
    if kernel is not camcore.kpcacam:
        with pytest.raises(camcore.InputError, match="'space', 'channels' or None, got 'rows'"):
            call(kernel, A, A, gram="rows")
    if kernel in (camcore.eigengradcam, camcore.segeigencam):
        with pytest.raises(camcore.InputError, match=r"\(2, 3, 4, 4\) and \(2, 3, 4, 5\)"):
            kernel(A, backend.array(np.ones((2, 3, 4, 5))))


def test_jax_without_float64_is_refused() -> None:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        x = jax.numpy.ones((3, 4, 4))
        with (
            pytest.warns(UserWarning, match="float64"),
            pytest.raises(camcore.InputError, match="jax_enable_x64"),
        ):
            camcore.first_component(x)


class Components(torch.nn.Module):
    """Each way to find a component."""

    def forward(self, features: torch.Tensor) -> tuple[Any, ...]:
        return (
            camcore.eigencam(features, gram="space"),
            camcore.eigencam(features, gram="channels"),
            camcore.kpcacam(features),
        )


@pytest.mark.parametrize("side", [4, pytest.param(24, marks=pytest.mark.slow)])
def test_constant_features_give_zeros_in_a_file(side: int) -> None:
    """An exporter drops a number below 1e-8 from a sum, so that no such number keeps from 0 / 0."""
    features = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    run = exporting.export(Components(), (features,), (None,))
    features[0], features[1], features[2, 1, 0, 0] = 0.0, 0.1, math.nan
    exporting.assert_same(Components(), run, (features,))
    for maps in run((features,)):
        np.testing.assert_allclose(maps[:2], 0, atol=1e-6)
        assert np.isnan(maps[2]).all()
        assert np.abs(maps[3]).max() > 0.1
