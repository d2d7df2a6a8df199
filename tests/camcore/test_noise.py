"""Noise: the bits, the distributions, and nothing between neighbours."""

import functools
import math
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import camcore
from camcore import noise
from tests.backends import Backend

PRIME = 2**31 - 1
SEEDS = [0, 1, 2, -1, 2**40]
MANY = 200_000
DYNAMIC = torch.export.Dim.DYNAMIC


@functools.cache
def uniform(seed: int, length: int = MANY) -> np.ndarray:
    result: np.ndarray = camcore.uniform_noise(np.empty(length), seed=seed)
    return result


def permuted(number: int, key: int) -> int:
    """The permutation with exact integers of any size."""
    for constant in (314159265, 271828182, 1414213562):
        number = pow(number + key + constant, 5, PRIME)
    return (number + key) % PRIME


def key_of(seed: int) -> int:
    return permuted(seed // PRIME + permuted(seed % PRIME, 0), 0)


def hash_of(number: int, seed: int) -> int:
    return permuted(number, key_of(seed))


@given(seed=st.integers(-(2**70), 2**70), length=st.integers(0, 50))
def test_the_numbers_are_those_of_exact_integers(backend: Backend, seed: int, length: int) -> None:
    """Fewer bits or an overflow on the way would show."""
    length = 50 if backend.name == "jax" else length
    actual = camcore.uniform_noise(backend.array(np.zeros(length), "float32"), seed=seed)
    expected = [(hash_of(2 * n, seed) >> 7) / 2**24 for n in range(length)]
    np.testing.assert_array_equal(backend.numpy(actual), expected)


def test_rows_are_those_of_exact_integers(backend: Backend) -> None:
    """A row's key is the hash of its index, under which its numbers are hashed in turn."""
    indices = [0, 1, 5, PRIME - 1]
    rows = noise.integer_rows(backend.array(np.asarray(indices)), 6, seed=-3)
    expected = [[permuted(n, permuted(i, key_of(-3))) for n in range(6)] for i in indices]
    backend.assert_close(rows, expected, "int64")


def test_the_permutation_overflows_nowhere() -> None:
    largest = np.asarray([PRIME - 1, PRIME - 2, 0], dtype=np.int64)
    for key in (0, 1, PRIME - 1):
        exact = [noise._permute(int(number), key) for number in largest]
        np.testing.assert_array_equal(noise._permute(largest, key), exact)
        assert max(exact) < PRIME


def test_no_number_comes_twice() -> None:
    numbers = noise._permute(np.arange(MANY), noise._key(3))
    assert len(np.unique(numbers)) == MANY


@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_numbers_are_uniform(seed: int) -> None:
    numbers = uniform(seed)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Kolmogorov-Smirnov and chi-square, at a chance of about one in a thousand for each seed.
    steps = np.arange(1, MANY + 1) / MANY
    assert np.abs(np.sort(numbers) - steps).max() < 1.95 / math.sqrt(MANY)
    counts = np.bincount((numbers * 256).astype(int), minlength=256)
    chi_square = ((counts - MANY / 256) ** 2 / (MANY / 256)).sum()
    assert abs(chi_square - 255) < 3.3 * math.sqrt(2 * 255)


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbours_have_nothing_in_common(seed: int) -> None:
    numbers = uniform(seed)
    for distance in (1, 2, 3, 7, 14, 224, 224 * 224):
        correlation = np.corrcoef(numbers[:-distance], numbers[distance:])[0, 1]
        assert abs(correlation) < 4 / math.sqrt(MANY - distance)
    pairs, _, _ = np.histogram2d(numbers[:-1], numbers[1:], bins=32)
    chi_square = ((pairs - pairs.mean()) ** 2 / pairs.mean()).sum()
    assert abs(chi_square - 1023) < 4 * math.sqrt(2 * 1023)


def test_seeds_have_nothing_in_common() -> None:
    rows = np.stack([uniform(seed, 2000) for seed in [*range(60), -1, 2**31, 2**62 + 1]])
    assert len(np.unique(rows)) > 0.98 * rows.size
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 5 / math.sqrt(rows.shape[1])
    shifted = np.corrcoef(rows[:-1, 1:].ravel(), rows[1:, :-1].ravel())[0, 1]
    assert abs(shifted) < 4 / math.sqrt(rows.size)


@pytest.mark.parametrize("seed", SEEDS)
def test_normal_numbers_are_normal(seed: int) -> None:
    numbers = camcore.normal_noise(np.empty(MANY), seed=seed)
    assert abs(numbers.mean()) < 4 / math.sqrt(MANY)
    assert abs(numbers.std() - 1) < 4 / math.sqrt(2 * MANY)
    assert np.abs(numbers).max() < 5.8
    exact = [0.5 * (1 + math.erf(x / math.sqrt(2))) for x in np.sort(numbers)]
    steps = np.arange(1, MANY + 1) / MANY
    assert np.abs(exact - steps).max() < 1.95 / math.sqrt(MANY)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4 / math.sqrt(MANY)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_libraries_agree(backend: Backend, dtype: str) -> None:
    like = backend.array(np.zeros((3, 100)), dtype)
    numbers = camcore.uniform_noise(like, seed=5)
    np.testing.assert_array_equal(backend.numpy(numbers), uniform(5, 300).reshape(3, 100))
    assert numbers.dtype == backend.dtypes[dtype]
    normal = camcore.normal_noise(np.zeros((3, 100)), seed=5)
    backend.assert_close(camcore.normal_noise(like, seed=5), normal, dtype, tolerance=3e-6)


def test_shape_and_precision_are_asked_for(backend: Backend) -> None:
    like = backend.array(np.full((2, 3), np.nan), "float32")
    numbers = camcore.uniform_noise(like, (4, 1, 5), seed=1)
    backend.assert_close(numbers, uniform(1, 20).reshape(4, 1, 5), "float32", tolerance=1e-7)
    assert tuple(camcore.normal_noise(like).shape) == (2, 3)
    assert tuple(camcore.normal_noise(like, (0, 2)).shape) == (0, 2)
    for dtype in backend.dtypes:
        assert camcore.uniform_noise(backend.array([0.0], dtype)).dtype == backend.dtypes[dtype]
    with pytest.raises(camcore.InputError, match=r"negative lengths, got \(2, -1\)"):
        camcore.uniform_noise(like, (2, -1))
    with pytest.raises(camcore.InputError, match="floating-point arrays"):
        camcore.uniform_noise(backend.array([1]))


def test_jax_without_int64_is_refused() -> None:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        like = jax.numpy.ones(3)
        with (
            pytest.warns(UserWarning, match="int64"),
            pytest.raises(camcore.InputError, match="jax_enable_x64"),
        ):
            camcore.uniform_noise(like)


class Noise(nn.Module):
    """Noise for images of any size and number."""

    def forward(self, image: Tensor) -> tuple[Any, ...]:
        n = 3
        return (
            camcore.uniform_noise(image, seed=7),
            camcore.normal_noise(image, (n, *image.shape[1:]), seed=7),
        )


def test_exported_noise_is_the_same() -> None:
    program = torch.export.export(
        Noise(),
        (torch.zeros(2, 3, 8, 6),),
        dynamic_shapes=({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},),
    )
    onnx_program = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(onnx_program.model_proto.SerializeToString())
    (name,) = (each.name for each in session.get_inputs())
    image = np.zeros((5, 3, 9, 11), np.float32)
    ran_uniform, ran_normal = session.run(None, {name: image})
    np.testing.assert_array_equal(ran_uniform, camcore.uniform_noise(image, seed=7))
    expected = camcore.normal_noise(image, (3, 3, 9, 11), seed=7)
    np.testing.assert_allclose(ran_normal, expected, rtol=1e-5, atol=2e-6)
