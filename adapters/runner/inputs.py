"""Inputs: what is given to a file, checked against its card."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array
from numpy.typing import ArrayLike, NDArray

from camcore.adapters.runner.classes import class_indices
from camcore.adapters.runner.opening import Device
from camcore.card import QUERIES, Card, ImageSpec
from camcore.errors import CamcoreError, InputError, unknown_name

ClassIds = ArrayLike | None  # integers, or names of classes in lists

# DLPack's device types.
CPU, CUDA = 1, 2


def checked_inputs(
    card: Card,
    device: Device,
    image: Any,
    others: Sequence[Any],
    class_ids: ClassIds,
    named: Mapping[str, Any],
) -> dict[str, Any]:
    """The graph's inputs by name and in order, those of a run in steps left out.

    Raises:
        InputError: one does not fit the card, or is not finite, or lies elsewhere.
        UnknownNameError: an input of a name that the file does not have.
    """
    inputs, class_ids = _in_order(card, others, class_ids, named)
    with _looking_at("image"):
        batch = check_image(image, card.image)
    if card.is_detector and batch > 1:
        raise InputError(f"image holds {batch} images; a detector's file takes one, (1, ...)")
    num_classes = card.num_classes
    if card.queries is not None:
        with _looking_at(QUERIES):
            queries = check_queries(inputs[QUERIES], batch, card.queries)
        inputs[QUERIES], num_classes = queries, queries.shape[1]
        if card.class_ids == "best" and num_classes < card.top:
            raise InputError(
                f"{num_classes} queries were given to a file that explains the {card.top} best: "
                f"give {card.top} or more, or export the model with a smaller top"
            )
    for name, value in inputs.items():
        if name != QUERIES:
            with _looking_at(name):
                _check_input(name, value, image, batch)
    if not card.takes_ids and class_ids is not None:
        raise InputError(_takes_no_ids(card))
    for name, value in {"image": image, **inputs}.items():
        with _looking_at(name):
            _check_device(name, value, device)
    given = {"image": image, **inputs}
    if card.takes_ids:
        class_ids = class_indices(card, class_ids)
        given["class_ids"] = check_class_ids(class_ids, batch, num_classes)
    return given


@contextmanager
def _looking_at(name: str) -> Iterator[None]:
    """Turns what an array raises that has no values to look at into an `InputError`."""
    try:
        yield
    except CamcoreError:
        raise
    except Exception as error:  # each library has its own
        told = re.split(r"\.\s|\n", str(error))[0]  # torch goes on for pages
        raise InputError(
            f"{name} cannot be looked at ({told}); expected its values in memory, all "
            "of them in a row, as a NumPy, torch or CuPy array"
        ) from error


def _in_order(
    card: Card, others: Sequence[Any], class_ids: Any, named: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """The inputs behind the image by their names in the file's order, and the class ids."""
    further = card.further_inputs
    for name in named:
        if name not in further:
            raise unknown_name("input", name, card.inputs)
    left = [name for name in further if name not in named]
    if len(others) == len(left) + 1 and class_ids is None:
        *others, class_ids = others
    if len(others) != len(left):
        raise InputError(
            f"{len(others)} inputs were given behind image and {len(named)} by name; the file "
            f"takes {', '.join(card.inputs)}"
        )
    values = {**named, **dict(zip(left, others, strict=True))}
    return {name: values[name] for name in further}, class_ids


def _takes_no_ids(card: Card) -> str:
    explained = "every class" if card.class_ids == "all" else f"the {card.top} best"
    return (
        f"class_ids were given to a file that explains {explained} by itself: leave them out, or "
        "export the model with class_ids='required' (--class-ids required)"
    )


def _check_input(name: str, value: Any, image: Any, batch: int) -> None:
    """Raises an `InputError` unless it is an array like the image, one row for each, and finite."""
    expected = f"expected an array of the image's library with {batch} rows"
    try:
        same = _namespace(value) is _namespace(image)
    except TypeError:
        same = False
    if not same:
        raise InputError(f"{name} is {type(value).__name__}; {expected}")
    dtype = str(value.dtype).removeprefix("torch.")
    given = f"{name} is {dtype} {tuple(value.shape)}"
    if value.ndim < 1 or value.shape[0] != batch:
        raise InputError(f"{given}; {expected}, as image has")
    if "float" in dtype and not bool(_namespace(value).all(_namespace(value).isfinite(value))):
        raise InputError(f"{given} and holds NaN or infinity; every value must be finite")


def check_image(image: Any, spec: ImageSpec) -> int:
    """The batch size of an image that the graph takes.

    Raises:
        InputError: the array's kind, dtype, rank, channels, size or values are not what the card
        says.
    """
    pixels = spec.dtype == "uint8"
    form = _form(spec)
    expected = f"expected {image_form(spec)}"
    try:
        xp = _namespace(image)
    except TypeError as error:
        raise InputError(
            f"image is {type(image).__name__}; {expected} as a NumPy, torch or CuPy array; "
            "camcore.adapters.images.read_image and prepare make one from a file"
        ) from error
    dtype = str(image.dtype).removeprefix("torch.")
    given = f"image is {dtype} {tuple(image.shape)}"
    if image.dtype != getattr(xp, spec.dtype):
        raise InputError(f"{given}; {expected}{_dtype_hint(dtype, spec)}")
    if not _has_form(image.shape, form):
        raise InputError(f"{given}; {expected}{_form_hint(image.shape, spec)}")
    if 0 in image.shape:  # an empty batch makes onnxruntime 1.22 divide by zero and end the process
        raise InputError(f"{given}, which is empty; {expected}")
    if not pixels and not bool(xp.all(xp.isfinite(image))):
        raise InputError(f"{given} and holds NaN or infinity; every value must be finite")
    return int(image.shape[0])


def image_form(spec: ImageSpec) -> str:
    """What the graph takes, as text.

    >>> image_form(ImageSpec(None, 224))
    'float32 (B, 3, H, 224)'
    """
    return f"{spec.dtype} ({', '.join(map(str, _form(spec)))})"


def _form(spec: ImageSpec) -> tuple[int | str, ...]:
    letters = {"frames": "T"}
    size = [length or letters.get(name, name[0].upper()) for name, length in spec.space.items()]
    if spec.dtype == "uint8":
        return ("B", *size, spec.channels)
    if spec.frames:
        return ("B", size[0], spec.channels, *size[1:])
    return ("B", spec.channels, *size)


def _has_form(shape: Sequence[int], form: Sequence[int | str]) -> bool:
    """Whether the axes that a form names by their size are of that size."""
    return len(shape) == len(form) and all(
        want == got or isinstance(want, str) for want, got in zip(form, shape, strict=True)
    )


def _dtype_hint(given: str, spec: ImageSpec) -> str:
    """What to do about an image of another dtype."""
    if spec.dtype == "uint8":
        return "; the file scales and normalises by itself, it wants pixels from 0 to 255"
    return "; camcore.adapters.images.prepare scales and normalises" if given == "uint8" else ""


def _form_hint(shape: Sequence[int], spec: ImageSpec) -> str:
    """What to do about an image of another form."""
    here, there, order = (3, 1, (0, 2, 3, 1)) if spec.dtype == "uint8" else (1, 3, (0, 3, 1, 2))
    if len(shape) == spec.spatial_ndim + 1:
        return "; add the batch axis: image[None]"
    if spec.spatial_ndim != 2:
        return ""
    if len(shape) == 4 and shape[there] == spec.channels != shape[here]:
        return f"; the channels stand elsewhere: take the axes in the order {order}"
    return "" if spec.is_any_size else "; camcore.adapters.images.prepare resizes"


def check_class_ids(class_ids: ClassIds, batch: int, num_classes: int) -> NDArray[np.int64]:
    """Class ids as the graph takes them, int64 (1, K) or (B, K).

    Numbers, lists, and arrays of any library that lie in the CPU's memory.

    Raises:
        InputError: not integers, a wrong shape, or not in -1..N-1.

    >>> check_class_ids([3, 5], batch=2, num_classes=10)
    array([[3, 5]])
    """
    expected = (
        f"expected integers from -1 to {num_classes - 1}, as one, (K,) or (B, K) with B = {batch}"
    )
    try:
        ids = _on_the_cpu(-1 if class_ids is None else class_ids)
    except Exception as error:  # ragged lists; arrays on a GPU, or that want gradients
        raise InputError(f"class_ids cannot become a NumPy array ({error}); {expected}") from error
    given = f"class_ids have shape {ids.shape}"
    if ids.size and ids.dtype.kind not in "iu":
        raise InputError(f"class_ids hold {ids.dtype}; {expected}")
    if ids.ndim < 2:
        ids = ids.reshape(1, -1)
    if ids.ndim != 2 or ids.shape[0] not in (1, batch):
        raise InputError(f"{given}; {expected}")
    if not 1 <= ids.shape[1] <= num_classes:
        raise InputError(f"{given}; K must be from 1 to the {num_classes} classes of the file")
    outside = ids[(ids < -1) | (ids >= num_classes)]
    if outside.size:
        raise InputError(f"class_ids hold {outside[0]}; {expected}")
    return np.array(ids, dtype=np.int64, order="C")


def check_queries(queries: ArrayLike, batch: int, length: int) -> NDArray[np.float32]:
    """Queries as the graph takes them, float32 (1, Q, D) or (B, Q, D), with D the `length`.

    Lists, and arrays of any library that lie in the CPU's memory.

    Raises:
        InputError: not floating point, a wrong shape, or not finite.

    >>> check_queries([[0.5, 1.0]], batch=2, length=2).shape
    (1, 1, 2)
    """
    expected = f"expected floats (Q, {length}), or (B, Q, {length}) with B = {batch}"
    try:
        found = _on_the_cpu(queries)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(f"queries cannot become a NumPy array ({error}); {expected}") from error
    given = f"queries are {found.dtype} {found.shape}"
    if found.dtype.kind != "f":
        raise InputError(f"{given}; {expected}")
    if found.ndim == 2:
        found = found[None]
    if found.ndim != 3 or found.shape[0] not in (1, batch) or found.shape[2] != length:
        raise InputError(f"{given}; {expected}")
    with np.errstate(over="ignore"):
        # A copy: whoever keeps it is not told where the caller fills the array anew.
        single = np.array(found, dtype=np.float32, order="C")
    if not found.size or not np.isfinite(single).all():
        raise InputError(
            f"{given}, empty or with NaN or infinity, in single precision at least; {expected}"
        )
    return single


def _on_the_cpu(class_ids: Any) -> NDArray[Any]:
    if hasattr(class_ids, "__dlpack__") and not hasattr(class_ids, "__array__"):
        return np.from_dlpack(class_ids)
    return np.asarray(class_ids)


def _check_device(name: str, array: Any, device: Device) -> None:
    kind = CPU if is_numpy_array(array) else array.__dlpack_device__()[0]
    if kind not in (CPU, CUDA):
        raise InputError(f"{name} lies on DLPack device type {kind}; move it to the CPU or to CUDA")
    if kind == CUDA and device == "cpu":
        raise InputError(
            f"{name} lies on CUDA, the file was loaded on the CPU: load(path, device='cuda'), or "
            f"move {name}"
        )


def _namespace(array: Any) -> Any:
    """The array's functions.

    For NumPy its own do: array-api-compat's would import all of NumPy, 40 ms more.
    """
    return np if is_numpy_array(array) else array_namespace(array)
