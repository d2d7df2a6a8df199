"""Noise: random numbers that are a function of a seed and a place, in graphs too.

Each number is a hash of its index, in integers that stay below 2**63: the same bits in every
library and in an exported file, whose runtime's own generator nobody could seed alike. Nothing has
a state, so the same call gives the same array.

The hash is a keyed permutation of the integers below the prime 2**31 - 1, fifth powers between
additions of the key, as in MiMC (Albrecht et al. 2016, https://eprint.iacr.org/2016/492). It is
meant for noise, not for secrets. Arrays of more than 2**30 numbers repeat themselves.

JAX has 64-bit integers only with `jax_enable_x64`; without it these functions raise `InputError`.
"""

import math
from typing import Any

from array_api_compat import device

from camcore._arrays import Array, cast, check_shape, floating_kernel, known, namespace, show
from camcore.errors import InputError

PRIME = 2**31 - 1  # less one it is no multiple of 5, so that all fifth powers differ
_ROUNDS = (314159265, 271828182, 1414213562)  # any numbers that differ


@floating_kernel
def uniform_noise(like: Array, shape: tuple[Any, ...] | None = None, /, *, seed: int = 0) -> Array:
    """Numbers from [0, 1), multiples of 2**-24, of that shape or that of `like`.

    `like` gives the library, the device and the precision; its values are not looked at. Below 32
    bits the numbers are rounded, to 1 where that is nearest. `seed` is any integer.

    Raises:
        InputError: `like` is not floating point, or a length is negative.

    >>> import numpy as np
    >>> uniform_noise(np.zeros(3), seed=1).round(3)
    array([0.99 , 0.443, 0.955])
    """
    return _uniform(like, like.shape if shape is None else shape, seed, stream=0)


@floating_kernel
def normal_noise(like: Array, shape: tuple[Any, ...] | None = None, /, *, seed: int = 0) -> Array:
    """Numbers from the normal distribution of mean 0 and standard deviation 1, up to 5.8 in size.

    Like `uniform_noise` otherwise, but that libraries differ in the last bits of their functions.

    Source: Box and Muller 1958, https://doi.org/10.1214/aoms/1177706645

    >>> import numpy as np
    >>> normal_noise(np.zeros(3), seed=1).round(3)
    array([-1.644, -0.861,  1.652])
    """
    xp = namespace(like)
    shape = like.shape if shape is None else shape
    # 1 - u is never 0, and exact.
    radius = xp.sqrt(-2 * xp.log(1 - _uniform(like, shape, seed, stream=0)))
    return radius * xp.cos(2 * math.pi * _uniform(like, shape, seed, stream=1))


def normal_rows(like: Array, indices: Array, shape: tuple[Any, ...], /, *, seed: int = 0) -> Array:
    """Normal numbers (n, *shape), those of a row a function of its index (n,) and the seed alone.

    So any part of the rows can be had without the others. They are `normal_noise`'s otherwise.
    """
    xp = namespace(like, indices)
    length = math.prod(shape)
    numbers = integer_rows(indices, 2 * length, seed=seed)
    radius = xp.sqrt(-2 * xp.log(1 - _fraction(numbers[:, :length], like.dtype)))
    rows = radius * xp.cos(2 * math.pi * _fraction(numbers[:, length:], like.dtype))
    return xp.reshape(rows, (indices.shape[0], *shape))


def integer_rows(indices: Array, length: Any, /, *, seed: int = 0) -> Array:
    """Whole numbers (n, length) from [0, 2**31 - 1), a row's a function of its index and the seed.

    No number comes twice in a row. Indices (n,) are 0 to 2**31 - 2.
    """
    xp = namespace(indices)
    key = _permute(_check(cast(xp, indices, xp.int64)), _key(seed))
    return _permute(_arange(indices, length), key[:, None])


def _uniform(like: Array, shape: tuple[Any, ...], seed: int, *, stream: int) -> Array:
    check_shape(shape, name="shape")
    if any(length < 0 for length in known(shape)):
        raise InputError(f"expected a shape without negative lengths, got {show(shape)}")
    xp = namespace(like)
    number = _permute(2 * _arange(like, math.prod(shape)) + stream, _key(seed))
    return xp.reshape(_fraction(number, like.dtype), shape)


def _arange(like: Array, length: Any) -> Array:
    xp = namespace(like)
    return _check(xp.arange(length, dtype=xp.int64, device=device(like)))


def _check(integers: Array) -> Array:
    if integers.dtype != namespace(integers).int64:
        raise InputError(
            f"expected a library with 64-bit integers, got {integers.dtype} from it; on JAX set "
            "jax_enable_x64"
        )
    return integers


def _fraction(number: Array, dtype: Any) -> Array:
    """The number over 2**31; the last 7 bits go, so that float32 holds the rest."""
    return cast(namespace(number), number - number % 2**7, dtype) / 2**31


def _key(seed: int) -> int:
    """Seeds next to each other get keys that have nothing in common."""
    low: int = _permute(seed % PRIME, 0)
    high: int = _permute(seed // PRIME + low, 0)
    return high


def _permute(number: Any, key: int) -> Any:
    """The number's image under the key's permutation; of an integer or an array of int64."""
    for constant in _ROUNDS:
        number = (number + (key + constant) % PRIME) % PRIME
        square = number * number % PRIME
        number = square * square % PRIME * number % PRIME
    return (number + key) % PRIME
