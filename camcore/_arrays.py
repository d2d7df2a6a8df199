"""What every kernel does around its equation: find the library, check shapes, choose precision.

Sizes are compared only where both are plain integers. While a graph is traced they are symbols, and
comparing those would fix them to the sizes of the example.
"""

import functools
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, ParamSpec, TypeAlias

from array_api_compat import array_namespace, device, is_array_api_obj, is_torch_namespace

from camcore.errors import InputError

Array: TypeAlias = Any  # an array of any library that follows the Python array API standard
P = ParamSpec("P")


def namespace(*arrays: Array) -> Any:
    """The array API namespace that all the arrays belong to.

    Raises:
        InputError: no array, something else, or arrays of more than one library.
    """
    try:
        # array-api-compat passes over None and over Python's numbers.
        if all(map(is_array_api_obj, arrays)):
            return array_namespace(*arrays)
        mixed = None
    except TypeError as error:
        mixed = error
    given = ", ".join(type(array).__name__ for array in arrays) or "none"
    raise InputError(f"expected arrays of one array library, got {given}") from mixed


def floating_kernel(kernel: Callable[P, Array]) -> Callable[P, Array]:
    """Let a kernel take floating-point arrays of any precision, and give its result in theirs.

    Mixed precisions are promoted. Arrays narrower than 32 bits are computed in float32 and rounded
    once, at the very end: the mean of small half-precision gradients would be zero before it
    reached the map, and the sum over channels infinite. What they cannot hold, as 10^5 in float16,
    becomes the largest number that they can.
    """

    equation: Callable[..., Array] = kernel
    positional = [p for p in signature(kernel).parameters.values() if p.kind is p.POSITIONAL_ONLY]
    needed = {place for place, p in enumerate(positional) if p.annotation is Array}

    @functools.wraps(kernel)
    def in_working_precision(*args: P.args, **kwargs: P.kwargs) -> Array:
        arrays: list[Array] = [
            arg for place, arg in enumerate(args) if place in needed or is_array_api_obj(arg)
        ]
        xp = namespace(*(arrays or args))
        for array in arrays:
            if not xp.isdtype(array.dtype, "real floating"):
                raise InputError(
                    f"{kernel.__name__} expected floating-point arrays, got {array.dtype}; "
                    "convert with astype first"
                )
        dtype = xp.result_type(*{array.dtype for array in arrays})
        working = working_dtype(xp, dtype)
        promoted = [cast(xp, arg, working) if is_array_api_obj(arg) else arg for arg in args]
        return _rounded(xp, equation(*promoted, **kwargs), dtype)

    return in_working_precision


def working_dtype(xp: Any, dtype: Any) -> Any:
    """The precision to compute in: at least float32."""
    return xp.float32 if xp.finfo(dtype).bits < 32 else dtype


def _rounded(xp: Any, array: Array, dtype: Any) -> Array:
    """The array in a precision that may be a narrower one, where no finite number is infinite."""
    if array.dtype != dtype and xp.finfo(dtype).bits < 32:
        most = float(xp.finfo(dtype).max)
        array = xp.where(xp.isinf(array), array, xp.clip(array, min=-most, max=most))
    return cast(xp, array, dtype)


def cast(xp: Any, array: Array, dtype: Any) -> Array:
    """The array in that precision; the very same array, and no node in a graph, if it has it."""
    return array if array.dtype == dtype else xp.astype(array, dtype)


def space(spatial_ndim: int) -> tuple[int, ...]:
    """The spatial axes, counted from the end."""
    return tuple(range(-spatial_ndim, 0))


def add_space(channels: Array, /, *, spatial_ndim: int) -> Array:
    """(..., C) as (..., C, 1, ..., 1), to be multiplied with activations."""
    return channels[(..., *(None,) * spatial_ndim)]


def multiply_along(matrix: Array, x: Array, axis: int, /) -> Array:
    """The product of a matrix (m, n) and the vectors (n,) that lie along an axis, from -1 down."""
    xp = namespace(matrix, x)
    if axis == -1:
        return xp.matmul(x, xp.matrix_transpose(matrix))
    # For two axes nothing moves: the rows are where a product from the left wants them.
    return xp.moveaxis(xp.matmul(matrix, xp.moveaxis(x, axis, -2)), -2, axis)


def relu(x: Array, /) -> Array:
    """The positive part; NaN stays NaN."""
    return namespace(x).clip(x, min=0)


def divide(numerator: Array, denominator: Array, /) -> Array:
    """The quotient, where a denominator of zero counts as one: 0 / 0 is 0 without a warning."""
    xp = namespace(numerator, denominator)
    return numerator / xp.where(denominator == 0, 1.0, denominator)


def divide_whole(numerator: Array, denominator: Any, /) -> tuple[Array, Array]:
    """Quotient and remainder of integers of 0 or more; torch 2.15 writes no % of a symbolic size
    into an ONNX file.
    """
    quotient = numerator // denominator
    return quotient, numerator - quotient * denominator


def spread_nonfinite(maps: Array, /, *, spatial_ndim: int) -> Array:
    """The maps, where one that holds a NaN or an infinity becomes NaN throughout.

    Said with a sum, for a runtime's maximum and minimum may skip NaN, as onnxruntime 1.31's do.
    """
    xp = namespace(maps)
    return maps + xp.sum(maps * 0, axis=space(spatial_ndim), keepdims=True)


def largest(values: Array, count: Any, /) -> Array:
    """The places of the `count` largest of values (..., C), int64 (..., count), in ascending order.

    Of equal values the first ones are taken, and NaN counts as infinity, in every library and every
    runtime: their sorts agree on values, but not on the order of what is equal.
    """
    xp = namespace(values)
    values = xp.where(xp.isnan(values), xp.inf, values)
    index = xp.arange(values.shape[-1], device=device(values))
    if is_torch_namespace(xp):  # torch.export has no stable sort
        smallest = xp.topk(values, count, dim=-1).values[..., -1:]
    else:
        smallest = xp.sort(values, axis=-1, descending=True)[..., count - 1 : count]
    above = cast(xp, values > smallest, index.dtype)
    equal = cast(xp, values == smallest, index.dtype)
    room = count - xp.sum(above, axis=-1, keepdims=True)
    taken = (above == 1) | ((equal == 1) & (xp.cumulative_sum(equal, axis=-1) <= room))
    # No two of the taken are equal.
    keys = xp.where(taken, values.shape[-1] - index, 0)
    if is_torch_namespace(xp):
        return xp.topk(keys, count, dim=-1).indices
    return cast(xp, xp.argsort(keys, axis=-1, descending=True)[..., :count], xp.int64)


def check_indexed(values: Array, indices: Array, /, *, name: str) -> tuple[Any, Array]:
    """The namespace of floating-point values and of integer indices; these in 32 bits or more.

    Raises:
        InputError: they are of two libraries or of other types, or the indices have no axis.
    """
    xp = namespace(values, indices)
    if not xp.isdtype(values.dtype, "real floating") or not xp.isdtype(
        indices.dtype, "signed integer"
    ):
        raise InputError(
            f"expected floating-point arrays and signed integer {name}, got {values.dtype} and "
            f"{indices.dtype}; convert with astype first"
        )
    if indices.ndim < 1:
        raise InputError(f"expected {name} of at least one axis, got {show(indices.shape)}")
    # Sizes are to be compared with them, and 8 bits hold none beyond 127.
    return xp, cast(xp, indices, xp.result_type(indices.dtype, xp.int32))


def check_channels(features: Array, /, *, spatial_ndim: int) -> None:
    """Raise `InputError` unless features are (..., C, *S) with at least one channel and point."""
    namespace(features)
    if not 0 < spatial_ndim < features.ndim or 0 in known(features.shape[-1 - spatial_ndim :]):
        raise InputError(
            f"expected features (..., C, *S) with {spatial_ndim} spatial axes, none of them empty; "
            f"got {show(features.shape)}"
        )


def check_features(
    activations: Array,
    other: Array,
    /,
    *,
    spatial_ndim: int,
    name: str,
    per_point: bool = True,
) -> None:
    """Raise `InputError` unless activations (..., C, *S) fit the other array of that name.

    It is (..., C, *S) if it has a value per point, (..., C) otherwise.
    """
    namespace(activations, other)
    own_axes = 1 + spatial_ndim if per_point else 1
    channels = -1 - spatial_ndim
    fits = (
        spatial_ndim > 0
        and activations.ndim > spatial_ndim
        and other.ndim >= own_axes
        and 0 not in known(activations.shape[channels:])
        and all(
            agree(size, other_size)
            for size, other_size in zip(
                activations.shape[channels:], other.shape[-own_axes:], strict=False
            )
        )
        and broadcasts(activations.shape[:channels], other.shape[:-own_axes])
    )
    if not fits:
        shape = "(..., C, *S)" if per_point else "(..., C)"
        raise InputError(
            f"expected activations (..., C, *S) and {name} {shape} with {spatial_ndim} spatial "
            "axes, none of them empty, of equal sizes and with leading axes that broadcast; got "
            f"{show(activations.shape)} and {show(other.shape)}"
        )


def check_maps(maps: Array, /, *, spatial_ndim: int) -> None:
    """Raise `InputError` unless maps are (..., *S) with at least one point."""
    namespace(maps)
    if not 0 < spatial_ndim <= maps.ndim or 0 in known(maps.shape[-spatial_ndim:]):
        raise InputError(
            f"expected maps (..., *S) with {spatial_ndim} spatial axes, none of them empty; "
            f"got {show(maps.shape)}"
        )


def check_shape(shape: Any, /, *, name: str) -> None:
    """Raise `InputError` unless a size or shape is a row of integers; symbols may be among them."""
    if isinstance(shape, Sequence) and not isinstance(shape, str):
        if not any(isinstance(length, float | str | None) for length in shape):
            return
        raise InputError(f"expected a {name} of integers, got {shape!r}")
    hint = f"; for a square give ({shape}, {shape})" if isinstance(shape, int) else ""
    raise InputError(f"expected a {name} as in (7, 7), got {shape!r}{hint}")


def agree(size: Any, other: Any, /) -> bool:
    """Whether two sizes may be equal: symbols are given the benefit of the doubt."""
    return not (isinstance(size, int) and isinstance(other, int)) or size == other


def broadcasts(shape: Sequence[Any], other: Sequence[Any], /) -> bool:
    """Whether two shapes broadcast."""
    pairs = zip(reversed(shape), reversed(other), strict=False)
    return all(agree(size, other_size) or 1 in (size, other_size) for size, other_size in pairs)


def known(shape: Sequence[Any], /) -> list[int]:
    """The sizes that are plain integers."""
    return [size for size in shape if isinstance(size, int)]


def show(shape: Sequence[Any], /) -> str:
    """A shape as every library's user writes it."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
