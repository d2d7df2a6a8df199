"""Ablation against plain loops, the peer, and its own laws."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import camcore
from tests.backends import TOLERANCE, Backend
from tests.camcore import exporting, references
from tests.camcore.strategies import Features, features

DYNAMIC = torch.export.Dim.DYNAMIC


def draw_channels(data: st.DataObject, case: Features) -> np.ndarray:
    """Three channels for all images or for each, some of them outside."""
    batch = case.activations.shape[: -1 - case.spatial_ndim]
    count = case.activations.shape[-1 - case.spatial_ndim]
    leading = data.draw(st.sampled_from([(), batch]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    return rng.integers(-2, count + 2, size=(*leading, 3))


def ablated(activations: np.ndarray, channel: int, value: float) -> np.ndarray:
    """One image's activations (C, *S) without the channel."""
    copy = activations.copy()
    if 0 <= channel < len(copy):
        copy[channel] = value
    return copy


@given(data=st.data())
def test_ablate_equals_a_loop(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    channels = draw_channels(data, case)
    value = data.draw(st.sampled_from([0.0, -1.0, 0.5]))
    A = case.activations
    batch = A.shape[: -1 - case.spatial_ndim]
    expected = np.zeros((3, *A.shape))
    by_image = np.broadcast_to(channels, (*batch, 3))
    for image in references.indices(batch):
        for n in range(3):
            expected[(n, *image)] = ablated(A[image], by_image[(*image, n)], value)
    actual = camcore.ablate(
        backend.array(A, case.dtype),
        backend.array(channels),
        value=value,
        spatial_ndim=case.spatial_ndim,
    )
    backend.assert_close(actual, expected, case.dtype, tolerance=0)


def test_several_targets_ablate_their_own_channels(backend: Backend) -> None:
    A = np.random.default_rng(0).random((2, 1, 4, 3, 3))
    channels = np.asarray([[[0, 1], [2, 3], [3, 3]], [[1, 0], [0, 0], [2, 1]]])
    actual = backend.numpy(camcore.ablate(backend.array(A), backend.array(channels)))
    assert actual.shape == (2, 2, 3, 4, 3, 3)
    for b, k, n in references.indices((2, 3, 2)):
        expected = ablated(A[b, 0], channels[b, k, n], 0.0)
        np.testing.assert_allclose(actual[n, b, k], expected, rtol=1e-6)


@given(data=st.data())
def test_take_channels_equals_a_loop(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    channels = draw_channels(data, case)
    A = case.activations
    batch, S = A.shape[: -1 - case.spatial_ndim], A.shape[-case.spatial_ndim :]
    expected = np.zeros((*batch, 3, *S))
    by_image = np.broadcast_to(channels, (*batch, 3))
    for image in references.indices(batch):
        for n, channel in enumerate(by_image[image]):
            if 0 <= channel < len(A[image]):
                expected[(*image, n)] = A[image][channel]
    actual = camcore.take_channels(
        backend.array(A, case.dtype), backend.array(channels), spatial_ndim=case.spatial_ndim
    )
    backend.assert_close(actual, expected, case.dtype, tolerance=0)


def test_a_nonfinite_channel_stays_where_it_is(backend: Backend) -> None:
    A = np.ones((2, 3, 2, 2))
    A[0, 1], A[1, 2] = np.nan, np.inf
    array, channels = backend.array(A), backend.array(np.asarray([1, 0, 7]))
    copies = backend.numpy(camcore.ablate(array, channels))
    assert np.isfinite(copies[0, 0]).all()  # the channel has gone, and the NaN with it
    np.testing.assert_array_equal(copies[1, 0, 1], np.full((2, 2), np.nan))
    np.testing.assert_array_equal(copies[2], A)
    taken = backend.numpy(camcore.take_channels(array, channels))
    np.testing.assert_array_equal(taken[1], np.stack([np.ones((2, 2))] * 2 + [np.zeros((2, 2))]))
    np.testing.assert_array_equal(taken[0, 0], np.full((2, 2), np.nan))


def test_small_integers_are_enough(backend: Backend) -> None:
    A = np.random.default_rng(0).random((200, 2, 2))
    channels = backend.xp.astype(backend.array(np.asarray([100, -1])), backend.xp.int8)
    array = backend.array(A, "float64")
    copies = camcore.ablate(array, channels)
    backend.assert_close(copies, np.stack([ablated(A, 100, 0.0), A]), "float64")
    taken = camcore.take_channels(array, channels)
    backend.assert_close(taken, np.stack([A[100], np.zeros((2, 2))]), "float64")


def test_a_chunk_at_a_time_is_the_same(backend: Backend) -> None:
    """The last chunk is filled up with a number outside, whose weight is 0."""
    A = backend.array(np.random.default_rng(0).random((2, 5, 3, 4)), "float64")
    at_once = backend.numpy(camcore.ablate(A, backend.array(np.arange(5))))
    chunks = [
        backend.numpy(camcore.ablate(A, backend.array(np.arange(start, start + 2))))
        for start in (0, 2, 4)
    ]
    parts = np.concatenate(chunks)
    np.testing.assert_array_equal(parts[:5], at_once)
    np.testing.assert_array_equal(parts[5], backend.numpy(A))
    scores = backend.array(parts.mean(axis=(2, 3, 4)).T, "float64")
    weights = backend.numpy(camcore.ablation_weights(scores[:, 5], scores))
    assert (weights[:, :5] > 0).all()
    np.testing.assert_array_equal(weights[:, 5], 0)


@given(data=st.data())
def test_weights_equal_the_equation(backend: Backend, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    eps = data.draw(st.sampled_from([1e-7, 1e-2]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    y = backend.rounded(rng.normal(size=(2, 1)), dtype)
    y_n = backend.rounded(rng.normal(size=(2, 3, 4)), dtype)
    expected = np.zeros((2, 3, 4))
    for b, k, n in references.indices((2, 3, 4)):
        size = y[b, 0] if y[b, 0] > 0 else -y[b, 0]
        expected[b, k, n] = (y[b, 0] - y_n[b, k, n]) / (size + eps)
    actual = camcore.ablation_weights(backend.array(y, dtype), backend.array(y_n, dtype), eps=eps)
    # A weight is the difference of two numbers, over one that may be small.
    limit = 1e-4 if dtype == "float32" else 1e-11
    backend.assert_close(actual, expected, dtype, tolerance=limit)


def test_a_negative_score_turns_nothing_around(backend: Backend) -> None:
    """A channel that held the score up has a positive weight, whatever the score's sign."""
    y, y_n = backend.array([3.0, -3.0, 0.0]), backend.array([[2.0], [-4.0], [-1.0]])
    weights = backend.numpy(camcore.ablation_weights(y, y_n))
    np.testing.assert_allclose(weights, [[1 / 3], [1 / 3], [1e7]], rtol=1e-5)
    without = camcore.ablation_weights(y, y_n, eps=0.0)
    backend.assert_close(without, [[1 / 3], [1 / 3], [1.0]], "float32")


def test_a_nan_score_is_its_own_images(backend: Backend) -> None:
    y, y_n = backend.array([1.0, np.nan]), backend.array([[0.5, np.nan], [0.5, 0.5]])
    weights = backend.numpy(camcore.ablation_weights(y, y_n))
    np.testing.assert_allclose(weights, [[0.5, np.nan], [np.nan, np.nan]], rtol=1e-5)


def overlaps(a: np.ndarray) -> np.ndarray:
    """Of one image's (C, P) the share of each channel inside the mask; NaN where that is unclear.

    With numpy's decomposition, and as loops.
    """
    centred = a - a.mean(axis=1, keepdims=True)
    vectors, _, _ = np.linalg.svd(centred, full_matrices=False)
    component = abs(vectors[:, 0] @ centred)
    component = (component - component.min()) / (component.max() - component.min())
    shares = np.zeros(len(a))
    for c, channel in enumerate(abs(a)):
        sizes = channel - channel.min()
        inside = sum(sizes[p] for p in range(len(sizes)) if component[p] > 0.01)
        shares[c] = inside / sum(sizes) if sum(sizes) else 0.0
    return np.full(len(a), np.nan) if (abs(component - 0.01) < 1e-6).any() else shares


def with_a_direction(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Features whose first component stands out, sparse, so that channels differ in overlap."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=shape) * (rng.random(shape) > 0.5)
    object_there = np.zeros(shape[2:])
    object_there[: -(-shape[2] // 2)] = 5.0
    A[:, 0] += object_there
    return A


@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 7),
    ratio=st.sampled_from([0.01, 0.3, 0.5, 0.8, 1.0]),
)
def test_the_channels_that_overlap_most(
    backend: Backend, seed: int, channels: int, ratio: float
) -> None:
    if backend.name == "jax":  # it compiles every operator anew for every shape
        channels, ratio = 5, 0.5
    A = with_a_direction(seed, (2, channels, 4, 3))
    actual = camcore.channels_to_ablate(backend.array(A, "float64"), ratio=ratio)
    chosen = backend.numpy(actual)
    assert actual.dtype == backend.xp.int64
    assert chosen.shape == (2, max(1, round(ratio * channels)))
    for image, indices in zip(A, chosen, strict=True):
        assert (np.diff(indices) > 0).all()
        assert set(indices) <= set(range(channels))
        shares = overlaps(image.reshape(channels, -1))
        rest = np.delete(shares, indices)
        assume(not np.isnan(shares).any())
        if rest.size:
            assert shares[indices].min() >= rest.max() - 1e-9


@given(data=st.data())
def test_a_batch_chooses_what_its_images_choose(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    choose = camcore.channels_to_ablate
    batch = backend.numpy(
        choose(
            backend.array(case.activations, case.dtype), ratio=0.5, spatial_ndim=case.spatial_ndim
        )
    )
    for image in references.indices(case.activations.shape[: -1 - case.spatial_ndim]):
        one = backend.array(case.activations[image], case.dtype)
        chosen = choose(one, ratio=0.5, spatial_ndim=case.spatial_ndim)
        np.testing.assert_array_equal(backend.numpy(chosen), batch[image])


def test_equal_constant_and_nonfinite_channels(backend: Backend) -> None:
    choose = camcore.channels_to_ablate
    for constant in (np.zeros((4, 3, 3)), np.full((4, 3, 3), 0.1), np.ones((4, 1, 1))):
        np.testing.assert_array_equal(
            backend.numpy(choose(backend.array(constant), ratio=0.5)), [0, 1]
        )
    A = np.zeros((2, 4, 3, 3))
    A[:, 2, 1, 1], A[:, 3, 1, 1] = 1.0, 2.0
    np.testing.assert_array_equal(
        backend.numpy(choose(backend.array(A), ratio=0.5)), [[2, 3], [2, 3]]
    )
    A[0, 1, 0, 0] = np.nan  # of which its own image's component is NaN, and no channel overlaps
    np.testing.assert_array_equal(
        backend.numpy(choose(backend.array(A), ratio=0.5)), [[0, 1], [2, 3]]
    )
    empty = camcore.channels_to_ablate(backend.array(np.zeros((0, 4, 3, 3))), ratio=0.5)
    assert tuple(empty.shape) == (0, 2)


def test_wrong_arguments_are_refused(backend: Backend) -> None:
    A, one = backend.array(np.ones((2, 3, 4, 4))), backend.array(np.asarray([0]))
    for kernel in (camcore.ablate, camcore.take_channels):
        with pytest.raises(camcore.InputError, match=r"signed integer channels.*float32"):
            kernel(A, A)
        with pytest.raises(camcore.InputError, match=r"floating-point arrays.*int64"):
            kernel(one, one)
        with pytest.raises(camcore.InputError, match=r"2 spatial axes.*\(1, 1\)"):
            kernel(backend.array(np.ones((1, 1))), one)
        with pytest.raises(camcore.InputError, match=r"broadcast, got \(2, 3, 4, 4\) and \(5, 1\)"):
            kernel(A, backend.array(np.zeros((5, 1), np.int64)))
        with pytest.raises(camcore.InputError, match=r"at least one axis, got \(\)"):
            kernel(A, backend.array(np.asarray(1)))
    with pytest.raises(camcore.InputError, match=r"broadcast, got \(2,\) and \(3, 4\)"):
        camcore.ablation_weights(backend.array(np.ones(2)), backend.array(np.ones((3, 4))))
    for ratio in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(camcore.InputError, match="above 0 and at most 1"):
            camcore.channels_to_ablate(A, ratio=ratio)


@given(data=st.data())
def test_the_map_is_the_weighted_sum_of_a_loop(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(features(backend))
    A, rank = case.activations, case.spatial_ndim
    leading = A.shape[:-rank]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    score, without = rng.normal(size=leading[:-1]), rng.normal(size=leading)
    expected = np.zeros((*leading[:-1], *A.shape[-rank:]))
    for image in references.indices(leading[:-1]):
        for k, channel in enumerate(A[image]):
            drop = score[image] - without[(*image, k)]
            expected[image] += drop / (abs(score[image]) + 1e-7) * channel
    actual = camcore.ablationcam(
        *(backend.array(each, case.dtype) for each in (A, score, without)), spatial_ndim=rank
    )
    backend.assert_close(actual, expected, case.dtype, tolerance=100 * TOLERANCE[case.dtype])


@given(data=st.data())
def test_behind_a_linear_score_one_gradient_tells_every_drop(
    backend: Backend, data: st.DataObject
) -> None:
    """What the formula gives is the score of the activations without the channel."""
    case = data.draw(features(backend))
    A, rank = case.activations, case.spatial_ndim
    leading = A.shape[:-rank]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    G = rng.normal(size=A.shape)
    score, expected = np.zeros(leading[:-1]), np.zeros(leading)
    for image in references.indices(leading[:-1]):
        score[image] = (G[image] * A[image]).sum() + 0.3
        for k in range(leading[-1]):
            expected[(*image, k)] = (G[image] * ablated(A[image], k, 0.0)).sum() + 0.3
    actual = camcore.linear_ablation(
        *(backend.array(each, case.dtype) for each in (A, G, score)), spatial_ndim=rank
    )
    backend.assert_close(actual, expected, case.dtype, tolerance=100 * TOLERANCE[case.dtype])


class Ablation(nn.Module):
    """All kernels, on as many channels as one likes."""

    def forward(self, activations: Tensor, channels: Tensor, own: Tensor) -> tuple[Any, ...]:
        copies = camcore.ablate(activations, channels)
        score, scores = activations.mean((1, 2, 3)), copies.mean((2, 3, 4)).movedim(0, -1)
        return (
            copies,
            camcore.ablate(activations, own, value=-1.0),
            camcore.ablation_weights(score, scores),
            camcore.channels_to_ablate(activations, ratio=0.5),
            camcore.take_channels(activations, channels),
            camcore.take_channels(activations, own),
            camcore.linear_ablation(activations, 2 * activations, score),
            camcore.ablationcam(camcore.take_channels(activations, channels), score, scores),
        )


def test_other_sizes_in_a_file() -> None:
    def inputs(batch: int, side: int, n: int, constant: bool = False) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        activations = torch.randn(batch, 6, side, side + 1, generator=generator).relu()
        return (
            activations * 0 + 0.1 if constant else activations,
            torch.randint(-2, 8, (n,), generator=generator),
            torch.randint(-2, 8, (batch, n), generator=generator),
        )

    n = torch.export.Dim("n")
    space = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    module = Ablation()
    run = exporting.export(module, inputs(2, 5, 4), (space, {0: n}, {0: DYNAMIC, 1: n}))
    for case in (inputs(5, 7, 3), inputs(1, 1, 1), inputs(3, 4, 9, constant=True)):
        exporting.assert_same(module, run, case)


peer: ModuleType | None
try:
    import pytorch_grad_cam.ablation_layer as peer
except ImportError:
    peer = None
with_peer = pytest.mark.skipif(peer is None, reason="grad-cam 1.5.7 is not installed")


@with_peer
@given(seed=st.integers(0, 2**32 - 1))
def test_the_peers_first_half_is_ours(seed: int) -> None:
    """Its list begins with the channels of most overlap, and should end there."""
    assert peer is not None
    (A,) = with_a_direction(seed, (1, 8, 5, 5))
    shares = np.sort(overlaps(A.reshape(8, -1)))
    assume(shares[4] - shares[3] > 1e-6)  # nor NaN
    theirs = peer.AblationLayer().activations_to_be_ablated(A, 0.5)
    assert len(theirs) == 8
    assert set(theirs[:4]) == set(camcore.channels_to_ablate(A, ratio=0.5))


@with_peer
def test_the_peers_weights_where_scores_are_positive() -> None:
    """And where the layer is rectified, so that it ablates with 0 as well."""
    from pytorch_grad_cam import AblationCAM

    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 4))
    model = nn.Sequential(layer, tail).eval()
    image = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        tail[2].bias.add_(5.0)  # type: ignore[union-attr, operator]
        A = layer(image)
        scores = tail(A)[:, 1]
        copies = camcore.ablate(A, torch.arange(5))
        ablated = tail(copies.flatten(0, 1)).unflatten(0, (5, 2))[..., 1].T
    assert (A == 0).any()
    assert (scores > 0).all()
    actual = camcore.ablation_weights(scores, ablated)
    with AblationCAM(model=model, target_layers=[layer]) as cam:
        targets = [lambda output: output[1]] * 2
        expected = cam.get_cam_weights(image, layer, targets, A.numpy(), None)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-6)
