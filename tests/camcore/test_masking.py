"""Masks and weights against plain loops and the peers, and their own laws."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import camcore
from camcore import noise
from tests.backends import TOLERANCE, Backend
from tests.camcore import exporting, references
from tests.camcore.strategies import features

DYNAMIC = torch.export.Dim.DYNAMIC


def resize_corners(line: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation where both ends stay; of one new point the first."""
    resized = np.zeros(size)
    for n in range(size):
        position = n * (len(line) - 1) / (size - 1) if size > 1 else 0.0
        left = int(np.floor(position))
        right = min(left + 1, len(line) - 1)
        resized[n] = line[left] + (position - left) * (line[right] - line[left])
    return resized


def score_mask(channel: np.ndarray, size: tuple[int, ...], align_corners: bool) -> np.ndarray:
    """U(A) less its minimum, over its maximum less its minimum; 0 where those are equal."""
    for axis, length in enumerate(size):
        line = resize_corners if align_corners else references.resize_line
        channel = np.apply_along_axis(line, axis, channel, length)
    lowest, highest = channel.min(), channel.max()
    # What interpolation leaves of a constant is no difference.
    if highest - lowest <= 1e-13 * abs(highest):
        return np.zeros(size)
    result: np.ndarray = (channel - lowest) / (highest - lowest)
    return result


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = [math.exp(each) for each in scores]
    return np.asarray([each / sum(powers) for each in powers])


@given(data=st.data())
def test_score_masks_equal_the_equation(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    align_corners = data.draw(st.booleans())
    lengths = st.just(5) if backend.name == "jax" else st.integers(1, 9)
    size = tuple(data.draw(lengths) for _ in range(case.spatial_ndim))
    A = case.activations
    expected = references.for_each_map(
        lambda channel: score_mask(channel, size, align_corners), A, case.spatial_ndim, size
    )
    actual = camcore.score_masks(
        backend.array(A, case.dtype),
        size,
        align_corners=align_corners,
        spatial_ndim=case.spatial_ndim,
    )
    # Between neighbours that differ little, rounding is stretched with them.
    backend.assert_close(actual, expected, case.dtype, tolerance=20 * TOLERANCE[case.dtype])
    assert backend.numpy(actual).min(initial=0) >= 0
    assert backend.numpy(actual).max(initial=0) <= 1


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e30])
def test_a_constant_channel_gives_zeros(
    backend: Backend, constant: float, align_corners: bool
) -> None:
    """Interpolated as it is, in float32 it would be rounded and stretched to noise."""
    A = backend.array(np.full((2, 3, 7, 7), constant))
    masks = camcore.score_masks(A, (31, 17), align_corners=align_corners)
    np.testing.assert_array_equal(backend.numpy(masks), np.zeros((2, 3, 31, 17)))


def test_small_differences_are_stretched_whole(backend: Backend) -> None:
    A = np.zeros((1, 2, 2))
    A[0, 0, 0] = 1e-12
    masks = backend.numpy(camcore.score_masks(backend.array(A), (2, 2)))
    np.testing.assert_array_equal(masks, [[[1, 0], [0, 0]]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nonfinite_channel_has_a_nan_mask(backend: Backend, bad: float) -> None:
    A = np.random.default_rng(0).random((2, 3, 4, 4))
    clean = backend.numpy(camcore.score_masks(backend.array(A), (9, 9)))
    A[1, 0, 2, 2] = bad
    with np.errstate(invalid="ignore"):
        masks = backend.numpy(camcore.score_masks(backend.array(A), (9, 9)))
    assert np.isnan(masks[1, 0]).all()
    clean[1, 0] = np.nan
    np.testing.assert_array_equal(masks, clean)


def test_one_point_and_no_image_at_all(backend: Backend) -> None:
    for align_corners in (False, True):
        one = camcore.score_masks(
            backend.array(np.full((3, 1, 1), 2.0)), (4, 4), align_corners=align_corners
        )
        np.testing.assert_array_equal(backend.numpy(one), np.zeros((3, 4, 4)))
        none = camcore.score_masks(
            backend.array(np.zeros((0, 3, 2, 2))), (4, 4), align_corners=align_corners
        )
        assert tuple(none.shape) == (0, 3, 4, 4)


@given(data=st.data())
def test_aligned_corners_equal_torch(data: st.DataObject) -> None:
    old = [data.draw(st.integers(1, 12)) for _ in range(2)]
    new = tuple(data.draw(st.integers(1, 12)) for _ in range(2))
    maps = torch.rand(2, 3, *old, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.UpsamplingBilinear2d(size=new)(maps)
    torch.testing.assert_close(camcore.resize(maps, new, align_corners=True), expected)


@given(data=st.data())
def test_weights_equal_the_softmax(backend: Backend, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = backend.rounded(3 * rng.normal(size=(4, 2, 5)), dtype)
    array = backend.array(scores, dtype)
    expected = np.apply_along_axis(softmax, -1, scores)
    backend.assert_close(camcore.scorecam_weights(array), expected, dtype)
    # A baseline is the same for all channels.
    baseline = backend.array(rng.normal(size=(4, 2, 1)), dtype)
    backend.assert_close(camcore.scorecam_weights(array - baseline), expected, dtype)
    mean = np.apply_along_axis(softmax, -1, sum(scores) / 4)
    for kernel in (camcore.sscam_weights, camcore.iscam_weights):
        backend.assert_close(kernel(array), mean, dtype)


def test_weights_of_large_and_of_nonfinite_scores(backend: Backend) -> None:
    large = camcore.scorecam_weights(backend.array([[1000.0, 999.0], [-1000.0, 0.0]]))
    backend.assert_close(large, [softmax(np.asarray([1.0, 0.0])), [0, 1]], "float32")
    bad = np.asarray([[np.nan, 1.0], [-np.inf, 1.0], [0.0, 0.0]])
    weights = camcore.scorecam_weights(backend.array(bad))
    backend.assert_close(weights, [[np.nan, np.nan], [0, 1], [0.5, 0.5]], "float32")
    empty = camcore.scorecam_weights(backend.array(np.zeros((0, 3))))
    assert tuple(empty.shape) == (0, 3)


@given(data=st.data())
def test_the_strongest_channels(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    A = case.activations
    channels = A.shape[-1 - case.spatial_ndim]
    count = 1 if backend.name == "jax" else data.draw(st.integers(1, channels))
    actual = camcore.strongest_channels(
        backend.array(A, case.dtype), count=count, spatial_ndim=case.spatial_ndim
    )
    leading = A.shape[: -1 - case.spatial_ndim]
    expected = np.zeros((*leading, count), dtype=np.int64)
    for image in references.indices(leading):
        largest = [channel.max() for channel in A[image]]
        order = sorted(range(channels), key=lambda k: (-largest[k], k))
        expected[image] = sorted(order[:count])
    backend.assert_close(actual, expected, "int64")


def test_equal_and_nonfinite_strengths(backend: Backend) -> None:
    A = np.zeros((3, 5, 2, 2))
    A[1, 3, 0, 0], A[1, 4, 1, 1] = 2.0, 1.0
    A[2, :4, 0, 0] = [9.0, np.nan, 8.0, -np.inf]
    with np.errstate(invalid="ignore"):
        actual = camcore.strongest_channels(backend.array(A), count=2)
    backend.assert_close(actual, [[0, 1], [3, 4], [1, 3]], "int64")
    A[2] = -1.0  # below zero too
    A[2, 4, 1, 1] = -0.5
    actual = camcore.strongest_channels(backend.array(A), count=2)
    backend.assert_close(actual[2, :], [0, 4], "int64")
    empty = camcore.strongest_channels(backend.array(np.zeros((0, 5, 2, 2))), count=2)
    assert tuple(empty.shape) == (0, 2)


@pytest.mark.parametrize("std", [0.0, 0.5, 2.0])
def test_sscam_adds_noise(backend: Backend, std: float) -> None:
    masks = np.random.default_rng(0).random((2, 3, 4, 5))
    indices = np.asarray([4, 0, 11])
    rows = noise.normal_rows(np.zeros(1), indices, (4, 5), seed=6)
    expected = masks + std * rows
    actual = camcore.sscam_masks(
        backend.array(masks, "float64"), backend.array(indices), std=std, seed=6
    )
    backend.assert_close(actual, expected, "float64", tolerance=1e-9)
    other = camcore.sscam_masks(
        backend.array(masks, "float64"), backend.array(indices), std=std, seed=7
    )
    assert (np.abs(backend.numpy(other) - expected).max() > 0.1) == (std > 0)


def test_sscam_a_few_at_a_time_is_the_same(backend: Backend) -> None:
    masks = np.random.default_rng(0).random((2, 6, 4, 5))
    noisy = [
        backend.numpy(
            camcore.sscam_masks(
                backend.array(masks[:, part]), backend.array(np.arange(6)[part]), seed=1
            )
        )
        for part in (slice(0, 6), slice(0, 4), slice(4, 6))
    ]
    np.testing.assert_array_equal(np.concatenate(noisy[1:], axis=1), noisy[0])
    one = camcore.sscam_masks(backend.array(masks[1, :, :, :]), backend.array(np.arange(6)), seed=1)
    np.testing.assert_array_equal(backend.numpy(one), noisy[0][1])


def test_noise_of_rows_is_normal_and_unrelated() -> None:
    rows = noise.normal_rows(np.zeros(1), np.arange(200), (1000,), seed=3)
    count = rows.size
    assert abs(rows.mean()) < 4 / math.sqrt(count)
    assert abs(rows.std() - 1) < 4 / math.sqrt(2 * count)
    exact = [0.5 * (1 + math.erf(x / math.sqrt(2))) for x in np.sort(rows, axis=None)]
    assert np.abs(exact - np.arange(1, count + 1) / count).max() < 1.95 / math.sqrt(count)
    correlations = np.corrcoef(rows) - np.eye(200)
    assert np.abs(correlations).max() < 5.2 / math.sqrt(1000)
    for shift in (1, 7):
        moved = np.corrcoef(rows[:-1, shift:].ravel(), rows[1:, :-shift].ravel())[0, 1]
        assert abs(moved) < 4 / math.sqrt(count)
    assert len(np.unique(rows)) > 0.98 * count


def test_jax_without_int64_has_no_rows() -> None:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        masks, indices = jax.numpy.ones((2, 3, 3)), jax.numpy.arange(2)
        with (
            pytest.warns(UserWarning, match="int64"),
            pytest.raises(camcore.InputError, match="jax_enable_x64"),
        ):
            camcore.sscam_masks(masks, indices)


@pytest.mark.parametrize("n_samples", [1, 4, 10])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_iscam_adds_up_steps(backend: Backend, n_samples: int, dtype: str) -> None:
    masks = backend.rounded(np.random.default_rng(0).random((2, n_samples, 3, 4)), dtype)
    expected, coefficient = np.zeros_like(masks), 0.0
    for i in range(n_samples):
        coefficient += (i + 1) / n_samples
        expected[:, i] = coefficient * masks[:, i]
    samples = backend.array(np.arange(n_samples))
    actual = camcore.iscam_masks(backend.array(masks, dtype), samples, n_samples=n_samples)
    backend.assert_close(actual, expected, dtype)


GAUSSIAN = {0: 1 / 4, 1: 1 / 8, 2: 1 / 16}  # by the number of axes along which one steps aside


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (5, 1), (2, 2)])
def test_point_masks_equal_a_loop(backend: Backend, shape: tuple[int, int], gaussian: bool) -> None:
    h, w = shape
    points = [*range(h * w), -1, h * w, h * w + w, -h * w]
    expected = np.zeros((len(points), h, w))
    for k in range(h * w):
        for i, j in references.indices(shape):
            down, right = abs(i - k // w), abs(j - k % w)
            if gaussian and max(down, right) <= 1:
                expected[k, i, j] = GAUSSIAN[down + right]
            elif not gaussian and down + right == 0:
                expected[k, i, j] = 1.0
    for dtype in backend.dtypes:
        like = backend.array(np.zeros(1), dtype)
        masks = camcore.point_masks(
            backend.array(np.asarray(points)), shape, like, gaussian=gaussian
        )
        backend.assert_close(masks, expected, dtype, tolerance=0)


def test_point_masks_of_one_and_of_three_axes(backend: Backend) -> None:
    like, points = backend.array([0.0]), backend.array(np.arange(24))
    masks = camcore.point_masks(points, (2, 3, 4), like)
    backend.assert_close(masks, np.eye(24).reshape(24, 2, 3, 4), "float32")
    line = camcore.point_masks(points[:2], (3,), like, gaussian=True)
    backend.assert_close(line, [[0.5, 0.25, 0], [0.25, 0.5, 0.25]], "float32")
    inside = camcore.point_masks(points, (2, 3, 4), like, gaussian=True)
    assert backend.numpy(inside)[5].max() == 1 / 8
    none = camcore.point_masks(points[:0], (2, 3), like)
    assert tuple(none.shape) == (0, 2, 3)


def rise_mask(index: int, size: tuple[int, int], cells: int, p: float, seed: int) -> np.ndarray:
    """One mask of the paper, pixel by pixel, with the numbers of the index."""
    numbers = noise.integer_rows(np.asarray([index]), 2 + cells**2, seed=seed)[0]
    grid = (numbers[2:] < p * (2**31 - 1)).astype(float).reshape(cells, cells)
    cell = [math.ceil(length / cells) for length in size]
    enlarged = references.resize(grid, ((cells + 1) * cell[0], (cells + 1) * cell[1]))
    top, left = numbers[0] % cell[0], numbers[1] % cell[1]
    return enlarged[top : top + size[0], left : left + size[1]]


@given(data=st.data())
def test_rise_masks_equal_the_paper(backend: Backend, data: st.DataObject) -> None:
    if backend.name == "jax":
        cells, size = 3, (10, 7)
    else:
        cells = data.draw(st.integers(1, 5))
        size = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    p, seed = data.draw(st.sampled_from([0.1, 0.5, 1.0])), data.draw(st.integers(-5, 5))
    indices = [0, 3, data.draw(st.integers(0, 2**31 - 2)), -1]
    expected = np.stack(
        [rise_mask(i, size, cells, p, seed) if i >= 0 else np.zeros(size) for i in indices]
    )
    for dtype in backend.dtypes:
        masks = camcore.rise_masks(
            backend.array(np.asarray(indices)),
            size,
            backend.array([0.0], dtype),
            cells=cells,
            probability=p,
            seed=seed,
        )
        backend.assert_close(masks, expected, dtype)


def test_rise_masks_are_the_indices_and_the_seeds(backend: Backend) -> None:
    like = backend.array([0.0])

    def masks(start: int, stop: int, seed: int = 0) -> np.ndarray:
        numbers = backend.array(np.arange(start, stop))
        return backend.numpy(camcore.rise_masks(numbers, (16, 24), like, seed=seed))

    at_once = masks(0, 7)
    np.testing.assert_array_equal(np.concatenate([masks(0, 4), masks(4, 7)]), at_once)
    distances = np.abs(at_once[:, None] - at_once).max(axis=(-2, -1))
    assert (distances + np.eye(7) > 0.5).all()
    assert np.abs(at_once - masks(0, 7, seed=1)).max() > 0.5
    assert masks(3, 3).shape == (0, 16, 24)


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_rise_masks_are_as_bright_as_expected_everywhere(probability: float) -> None:
    masks = camcore.rise_masks(
        np.arange(4000), (24, 40), np.zeros(1), cells=6, probability=probability
    )
    assert masks.min() >= 0
    assert masks.max() <= 1
    deviation = math.sqrt(probability * (1 - probability) / 4000)
    assert np.abs(masks.mean(axis=0) - probability).max() < 4.5 * deviation
    # No place is in the middle of a cell more often than others; without shifts this would be 2.
    spread = masks.std(axis=0)[4:-4, 7:-7]
    assert spread.max() / spread.min() < 1.25


def test_rise_map_is_the_weighted_mean(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    masks, scores = rng.random((6, 4, 5)), rng.random((2, 3, 6))
    expected = np.zeros((2, 3, 4, 5))
    for b, k, n in references.indices((2, 3, 6)):
        expected[b, k] += scores[b, k, n] * masks[n] / (0.3 * 6)
    array, weights = backend.array(masks, "float64"), backend.array(scores, "float64")
    sums = camcore.weighted_sum(array, weights)
    whole = camcore.rise_map(sums, n_masks=6, probability=0.3)
    backend.assert_close(whole, expected, "float64")
    parts = camcore.weighted_sum(array[:4, ...], weights[..., :4]) + camcore.weighted_sum(
        array[4:, ...], weights[..., 4:]
    )
    running = camcore.rise_map(parts, n_masks=6, probability=0.3)
    backend.assert_close(running, expected, "float64")


def test_rise_finds_the_pixel_that_counts() -> None:
    masks = camcore.rise_masks(np.arange(2000), (16, 16), np.zeros(1), cells=4)
    scores = masks[:, 5, 10]  # a model that looks at one pixel
    raw = camcore.rise_map(camcore.weighted_sum(masks, scores), n_masks=2000)
    row, column = np.unravel_index(raw.argmax(), raw.shape)
    assert max(abs(row - 5), abs(column - 10)) <= 1


@given(data=st.data())
def test_the_maps_are_the_weighted_sums_of_a_loop(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    A, rank = case.activations, case.spatial_ndim
    leading = A.shape[:-rank]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    samples = rng.normal(size=(3, *leading))
    expected, averaged = (np.zeros((*leading[:-1], *A.shape[-rank:])) for _ in range(2))
    for image in references.indices(leading[:-1]):
        weights = softmax(samples[(0, *image)])
        means = softmax(samples[(slice(None), *image)].mean(axis=0))
        for k, channel in enumerate(A[image]):
            expected[image] += weights[k] * channel
            averaged[image] += means[k] * channel
    array, scores = backend.array(A, case.dtype), backend.array(samples, case.dtype)
    close = partial(backend.assert_close, tolerance=20 * TOLERANCE[case.dtype])
    close(camcore.scorecam(array, scores[0, ...], spatial_ndim=rank), expected, case.dtype)
    for kernel in (camcore.sscam, camcore.iscam):
        close(kernel(array, scores, spatial_ndim=rank), averaged, case.dtype)
        close(kernel(array, scores[:1, ...], spatial_ndim=rank), expected, case.dtype)


def test_recipro_cam_puts_every_score_in_its_place(backend: Backend) -> None:
    """The point that `point_masks` marks by a number has the score of that number."""
    shape = (3, 4)
    masks = camcore.point_masks(backend.array(np.arange(12)), shape, backend.array(np.ones(1)))
    looks_at = np.random.default_rng(0).normal(size=(2, *shape))
    scores = np.einsum("nhw,bhw->bn", backend.numpy(masks), looks_at)
    raw = camcore.reciprocam(backend.array(scores), shape)
    backend.assert_close(raw, looks_at, "float32")
    line = camcore.reciprocam(backend.array(scores), (12,))
    assert tuple(line.shape) == (2, 12)
    with pytest.raises(camcore.InputError, match=r"each point of \(3, 3\), got \(2, 12\)"):
        camcore.reciprocam(backend.array(scores), (3, 3))


@given(data=st.data())
def test_the_score_of_a_point_alone_where_it_is_linear(
    backend: Backend, data: st.DataObject
) -> None:
    """What the formula gives is the score of the activations times each mask."""
    case, gaussian = data.draw(features(backend)), data.draw(st.booleans())
    A, rank = case.activations, case.spatial_ndim
    S = A.shape[-rank:]
    masks = camcore.point_masks(np.arange(math.prod(S)), S, np.ones(1), gaussian=gaussian)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    G = rng.normal(size=A.shape)
    score = (G * A).sum(axis=tuple(range(-rank - 1, 0))) + 0.3
    expected = np.zeros((*A.shape[: -rank - 1], *S))
    for image in references.indices(A.shape[: -rank - 1]):
        for mask, point in zip(masks, np.ndindex(S), strict=True):
            expected[(*image, *point)] = (G[image] * A[image] * mask).sum() + 0.3
    actual = camcore.linear_reciprocam(
        *(backend.array(each, case.dtype) for each in (A, G, score)),
        gaussian=gaussian,
        spatial_ndim=rank,
    )
    backend.assert_close(actual, expected, case.dtype, tolerance=100 * TOLERANCE[case.dtype])


def test_wrong_arguments_are_refused(backend: Backend) -> None:
    A, one = backend.array(np.ones((2, 3, 4, 4))), backend.array(np.asarray([0]))
    with pytest.raises(camcore.InputError, match=r"size of 2 lengths, got \(4,\)"):
        camcore.score_masks(A, (4,))
    with pytest.raises(camcore.InputError, match=r"positive integers, got \(0, 4\)"):
        camcore.score_masks(A, (0, 4))
    with pytest.raises(camcore.InputError, match=r"2 spatial axes.*\(1,\)"):
        camcore.score_masks(backend.array([1.0]), (4, 4))
    for count in (0, 4):
        with pytest.raises(camcore.InputError, match=rf"got {count} for \(2, 3, 4, 4\)"):
            camcore.strongest_channels(A, count=count)
    for kernel in (camcore.sscam_masks, camcore.iscam_masks):
        with pytest.raises(camcore.InputError, match=r"got \(2, 3, 4, 4\) and \(1,\)"):
            kernel(A, one)
        with pytest.raises(camcore.InputError, match="signed integer"):
            kernel(A, A)
    for weights in (camcore.sscam_weights, camcore.iscam_weights):
        for scores in (np.ones(3), np.ones((0, 3))):
            with pytest.raises(camcore.InputError, match="at least one sample"):
                weights(backend.array(scores))
    with pytest.raises(camcore.InputError, match="n_samples=0"):
        camcore.iscam_masks(A[:, :1, :, :], one, n_samples=0)
    for shape in ((), (0, 2)):
        with pytest.raises(camcore.InputError, match="positive integers"):
            camcore.point_masks(one, shape, A)
    with pytest.raises(camcore.InputError, match=r"points \(n,\).*got \(1, 1\)"):
        camcore.point_masks(one[:, None], (2, 2), A)
    with pytest.raises(camcore.InputError, match="floating-point"):
        camcore.rise_masks(one, (4, 4), one)
    with pytest.raises(camcore.InputError, match=r"size \(H, W\).*got \(4,\) and 8"):
        camcore.rise_masks(one, (4,), A)
    with pytest.raises(camcore.InputError, match="at least one cell"):
        camcore.rise_masks(one, (4, 4), A, cells=0)
    for probability in (0.0, 1.5):
        with pytest.raises(camcore.InputError, match="above 0 and at most 1"):
            camcore.rise_masks(one, (4, 4), A, probability=probability)
        with pytest.raises(camcore.InputError, match="above 0 and at most 1"):
            camcore.rise_map(A, n_masks=3, probability=probability)
    with pytest.raises(camcore.InputError, match="n_masks=0"):
        camcore.rise_map(A, n_masks=0)


class Masking(nn.Module):
    """All kernels, with indices and sizes that are inputs."""

    def forward(self, image: Tensor, activations: Tensor, indices: Tensor) -> tuple[Any, ...]:
        size, S = tuple(image.shape[-2:]), tuple(activations.shape[-2:])
        taken = camcore.take_channels(activations, indices)
        masks = camcore.score_masks(taken, size)
        scores = masks.mean((2, 3))
        rise = camcore.rise_masks(indices, size, image, seed=3)
        return (
            masks,
            camcore.score_masks(activations, size, align_corners=True),
            camcore.strongest_channels(activations, count=3),
            camcore.scorecam_weights(scores),
            camcore.sscam_masks(masks, indices + 5),
            camcore.sscam_weights(scores[None, :, :]),
            camcore.iscam_masks(masks, indices + 5),
            camcore.iscam_weights(scores[None, :, :]),
            camcore.point_masks(indices, S, activations),
            camcore.point_masks(indices, S, activations, gaussian=True),
            rise,
            camcore.rise_map(camcore.weighted_sum(rise, scores), n_masks=7),
            camcore.scorecam(taken, scores),
            camcore.sscam(taken, scores[None, :, :]),
            camcore.iscam(taken, scores[None, :, :]),
            camcore.reciprocam(activations.flatten(2), S),
            camcore.linear_reciprocam(activations, 2 * activations, scores[:, 0]),
            camcore.linear_reciprocam(activations, activations, scores[:, 0], gaussian=True),
        )


def test_other_sizes_in_a_file() -> None:
    def inputs(
        batch: int, side: int, image: int, n: int, value: float | None = None
    ) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        activations = torch.randn(batch, 6, side, side + 1, generator=generator).relu()
        if value is not None:
            activations[0] = value
        return (
            torch.rand(batch, 3, image, image + 3, generator=generator),
            activations,
            torch.randint(-1, 8, (n,), generator=generator),
        )

    space = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    module = Masking()
    run = exporting.export(module, inputs(2, 5, 32, 4), (space, space, {0: DYNAMIC}))
    for case in (
        inputs(5, 7, 45, 3),
        inputs(1, 1, 9, 1),
        inputs(3, 4, 20, 9, value=0.1),
        inputs(3, 4, 20, 9, value=math.nan),
    ):
        exporting.assert_same(module, run, case)


def test_the_peers_masks_and_weights() -> None:
    """Of a model that scores a masked image by its weighted mean, through the peer's whole loop."""
    peer = pytest.importorskip(
        "pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"
    ).ScoreCAM
    rng = np.random.default_rng(0)
    A = np.maximum(rng.normal(size=(2, 6, 5, 4)), 0).astype(np.float32)
    A[0, 1] = 0.0
    image = torch.from_numpy(rng.random((2, 3, 32, 24), dtype=np.float32))
    looks_at = torch.from_numpy(rng.normal(size=(2, 3, 32, 24)).astype(np.float32))
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch)
        return torch.stack([(batch * each).mean(dim=(1, 2, 3)) * 100 for each in looks_at], dim=1)

    instance = SimpleNamespace(device="cpu", model=model)
    targets = [lambda output: output[0], lambda output: output[1]]
    expected = peer.get_cam_weights(instance, image, None, targets, A, None)
    masks = camcore.score_masks(torch.from_numpy(A), (32, 24), align_corners=True)
    masked = image[:, None] * masks[:, :, None]
    torch.testing.assert_close(masked.flatten(0, 1), torch.cat(seen), rtol=1e-5, atol=1e-6)
    scores = torch.stack([model(masked[n])[:, n] for n in range(2)])
    actual = camcore.scorecam_weights(scores)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert np.ptp(expected) > 0.05
