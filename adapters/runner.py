"""Running an exported file: `.onnx` with onnxruntime, `.pt` and `.pt2` with torch.

What comes in comes out: NumPy arrays give NumPy arrays, torch or CuPy arrays give arrays of their
own library on their own device. An `.onnx` file never imports torch; CUDA arrays reach onnxruntime,
and come back, without a copy.
"""

import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
from array_api_compat import array_namespace, is_numpy_array, to_device
from numpy.typing import ArrayLike, NDArray

from camcore.adapters.files import check_reopenable, read_card, unchanged
from camcore.card import Card, ImageSpec, default_probabilities
from camcore.errors import FileError, InputError, UnknownNameError, unknown_name
from camcore.targets import binary, probability

if TYPE_CHECKING:
    import torch

A = TypeVar("A")
Device = Literal["cpu", "cuda"]
ClassIds = ArrayLike | None  # integers
# The graph's checked inputs by name and in order, image first, in; its outputs in order out.
Graph = Callable[[Mapping[str, Any]], Sequence[Any]]
# How many steps of how many are done.
Progress = Callable[[int, int], object]

_CPU, _CUDA = 1, 2  # DLPack's device types

_QUERIES = "queries"  # the input of a file that compares embeddings

_MOST_SHOWN = 16  # values that an explanation's repr writes out

# Steps of less than so many seconds are taken several at once: each run costs a prediction more.
_SECONDS_OF_STEPS = 0.5

# Those of camcore.export.TARGETS whose classes are the columns of the model's output.
_TARGETS_BY_CLASS = ("logit", "probability", "value", "rest", "finer", "similarity", "dot")
# Whose two classes are made of the one column.
_BINARY = "binary"


class Explanation(Mapping[str, A]):
    """What a file gives for a batch of images: arrays by the names of the graph's outputs.

    Each is an attribute and an item: `explanation.saliency_map` is `explanation["saliency_map"]`.
    `classes` is int64 (B, K), `saliency_map` (B, K, H, W) in [0, 1]. Before them come the model's
    own outputs: `scores` (B, N) where it returns one tensor, else those that `card.outputs` names.
    Where `card.boxes` says that the file finds M, `boxes` (B, K, M, 4) are x1, y1, x2, y2 in pixels
    of the graph's image, x2 and y2 exclusive, and `box_scores` (B, K, M) their scores, padded with
    -1 and 0; `camcore.adapters.images.Placement` puts them on the original.

    >>> Explanation({"scores": [[0.1, 0.9]], "classes": [[1]]}).classes
    [[1]]
    """

    scores: A
    classes: A
    saliency_map: A
    boxes: A
    box_scores: A

    def __init__(self, arrays: Mapping[str, A]) -> None:
        vars(self).update(arrays)

    def __getitem__(self, name: str) -> A:
        return cast(A, vars(self)[name])

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {_shown(array)}" for name, array in self.items())
        return f"<{type(self).__name__}: {arrays}>"


def _shown(array: Any) -> str:
    """An array's type and shape; of class ids, which are few, their values."""
    if not hasattr(array, "shape"):
        return repr(array)
    dtype = str(array.dtype).removeprefix("torch.")
    shape = f"{dtype} ({', '.join(map(str, array.shape))})"
    few = "int" in dtype and math.prod(array.shape) <= _MOST_SHOWN
    return f"{shape} {array.tolist()}" if few else shape


@dataclass(frozen=True, repr=False)
class Runner:
    """An exported file that is ready to run.

    Call it with `image`, float32 (B, 3, H, W) normalised as `card.image` says
    (`camcore.adapters.images.prepare` does that), or uint8 (B, H, W, 3) where `card.image.dtype` is
    uint8; with the model's further inputs, if it has any, in the order of `card.inputs` or by those
    names, arrays of the image's library with B rows; and with `class_ids`, the classes to explain:
    None for the highest-scoring one, an integer, or integers (K,) or (B, K). -1 in column k means
    the k-th best. Ids may come last without their name. A file with `card.class_ids` of `best` or
    `all` chooses by itself and takes none.

    A file that compares embeddings takes `queries` as well, float32 (Q, D) for all images or
    (B, Q, D), with D of `card.queries`; its classes are the queries, by their number.

    A file that takes many passes in `card.steps` tells `progress` how many of them are done, before
    the first and then every half second or so; Ctrl-C stops it between two. Without `progress` all
    steps are one run, which is a little faster and gives the same.
    """

    card: Card
    device: Device
    _graph: Graph

    def __repr__(self) -> str:
        card = self.card
        count = f"{card.num_classes} classes" if card.queries is None else "queries as classes"
        return (
            f"<{type(self).__name__}: {card.method} of {card.model or 'a model'} at {card.layer}, "
            f"{count}, on {self.device}; call it with {image_form(card.image)}>"
        )

    def __call__(
        self,
        image: A,
        *others: Any,
        class_ids: ClassIds = None,
        progress: Progress | None = None,
        **named: Any,
    ) -> Explanation[A]:
        """The model's outputs and the maps of a batch of images.

        Raises:
            InputError: the image, another input or the class ids do not fit the card, or are not
                finite.
            UnknownNameError: an input of a name that the file does not have.
        """
        inputs, class_ids = _in_order(self.card, others, class_ids, named)
        batch = check_image(image, self.card.image)
        if self.card.is_detector and batch > 1:
            raise InputError(f"image holds {batch} images; a detector's file takes one, (1, ...)")
        num_classes = self.card.num_classes
        if self.card.queries is not None:
            queries = check_queries(inputs[_QUERIES], batch, self.card.queries)
            inputs[_QUERIES], num_classes = queries, queries.shape[1]
        for name, value in inputs.items():
            if name != _QUERIES:
                _check_input(name, value, image, batch)
        if self.card.takes_ids:
            ids = {"class_ids": check_class_ids(class_ids, batch, num_classes)}
        elif class_ids is None:
            ids = {}
        else:
            raise InputError(_takes_no_ids(self.card))
        for name, value in {"image": image, **inputs}.items():
            _check_device(name, value, self.device)
        given = {"image": image, **inputs, **ids}
        try:
            outputs = self._graph(given) if self.card.steps is None else self._run(given, progress)
        except Exception as error:  # each runtime has its own, derived from nothing narrower
            shapes = ", ".join(
                f"{name} of shape {tuple(cast(Any, value).shape)}"
                for name, value in {"an image": image, **inputs}.items()
            )
            raise InputError(f"the graph failed on {shapes}: {error}") from error
        return Explanation(dict(zip(self.card.outputs, outputs, strict=True)))

    def with_queries(self, queries: ArrayLike, names: Sequence[str] | None = None) -> "Runner":
        """The file with queries (Q, D) given once and for all, as a classifier of those.

        Raises:
            InputError: the file takes none, or they are not vectors of its length, or there is not
                a name for each.

        >>> load("clip.onnx").with_queries(texts, ["a dog", "a cat"])(image)  # doctest: +SKIP
        """
        if self.card.queries is None:
            raise InputError("queries were given to a file that takes none")
        given = check_queries(queries, 1, self.card.queries)
        count = given.shape[1]
        if names is not None and len(names) != count:
            raise InputError(f"{len(names)} names were given for {count} queries")
        card = replace(
            self.card,
            inputs=tuple(name for name in self.card.inputs if name != _QUERIES),
            num_classes=count,
            class_names=None if names is None else tuple(names),
            queries=None,
        )

        def graph(feeds: Mapping[str, Any]) -> Sequence[Any]:
            known = {**feeds, _QUERIES: given}
            return self._graph({name: known[name] for name in self.card.graph_inputs})

        return Runner(card, self.device, graph)

    def _run(self, given: Mapping[str, Any], progress: Progress | None) -> Sequence[Any]:
        """The outputs of a file that takes its passes in steps, behind the last of them."""
        total = cast(int, self.card.steps)
        k = given["class_ids"].shape[1] if self.card.takes_ids else len(self.card.own_ids)
        shape = self.card.state_shape(given["image"].shape, k)
        state: Any = np.zeros(shape, dtype=np.float32)
        outputs: Sequence[Any] = ()
        done, at_once = 0, total if progress is None else 1
        while done < total:
            if progress is not None:
                progress(done, total)
            due = np.arange(done, min(done + at_once, total))
            start = time.perf_counter()
            *outputs, state = self._graph({**given, "steps": due, "state": state})
            done += len(due)
            if time.perf_counter() - start < _SECONDS_OF_STEPS:
                at_once *= 2
        if progress is not None:
            progress(done, total)
        return outputs


def load(path: str | Path, device: Device = "cpu") -> Runner:
    """Make an exported file ready to run on a device.

    `.onnx` needs onnxruntime (or onnxruntime-gpu for `cuda`), `.pt` and `.pt2` need torch. The seal
    in a file guards against accidents, not against malice: load files from people you trust, as
    with any model.

    Raises:
        FileError: the file is missing, damaged, was changed, or was not written by camcore.
        InputError: the runtime or the device is not there. There is no silent fallback to the CPU.

    >>> explain = load("resnet18.onnx")  # doctest: +SKIP
    >>> explain(image).saliency_map.shape  # doctest: +SKIP
    (1, 1, 224, 224)
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}; expected 'cpu' or 'cuda'")
    path = Path(path)
    check_reopenable(path)
    open_graph = {".onnx": _open_onnx, ".pt": _open_torchscript, ".pt2": _open_exported}
    try:
        # The runtimes read the file again: handing them the bytes would copy those once more.
        with unchanged(path):
            card = read_card(path)
            graph = open_graph[path.suffix.lower()](path, card, device)
    except ModuleNotFoundError as error:
        onnx_extra = "gpu" if device == "cuda" else "run"
        extra = onnx_extra if error.name == "onnxruntime" else "export"
        raise InputError(
            f"{path} needs {error.name}, which is not installed: pip install 'camcore[{extra}]'"
        ) from error
    return Runner(card, device, graph)


def class_index(card: Card, name: str) -> int:
    """The index of a class given by its name, or by its index written out.

    Raises:
        UnknownNameError: no class has that name; the message lists the nearest.
        InputError: several classes have it.

    >>> image = ImageSpec(None, None)
    >>> card = Card("gradcam", "layer4", image, 2, ("scores",), class_names=("cat", "dog"))
    >>> class_index(card, "dog")
    1
    """
    names = card.class_names or ()
    for same in (str, str.casefold):
        found = [index for index, known in enumerate(names) if same(known) == same(name)]
        if len(found) > 1:
            listed = ", ".join(map(str, found))
            raise InputError(f"{len(found)} classes are called {name!r}: give an index, {listed}")
        if found:
            return found[0]
    try:
        index = int(name)
    except ValueError:
        hint = f"An index from 0 to {card.num_classes - 1} will do too."
        if names:
            raise unknown_name("class", name, names, hint) from None
        raise UnknownNameError(f"class {name!r}: the file carries no class names. {hint}") from None
    if not 0 <= index < card.num_classes:
        raise UnknownNameError(
            f"class {index} does not exist; the file's classes are 0 to {card.num_classes - 1}"
        )
    return index


def class_scores(card: Card, explanation: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """The scores (B, N) of the classes among what a file gave, None where it gives none.

    They are the output that is explained. But a segmentation model gives scores for pixels, and
    some targets make their own scores inside the graph. Where the card does not name the output, it
    is the only one that looks like scores.

    >>> card = Card("gradcam", "layer4", ImageSpec(None, None), 2, ("out", "classes"))
    >>> class_scores(card, {"out": np.array([[0.5, 2.0]]), "classes": np.array([[1]])})
    array([[0.5, 2. ]])
    >>> class_scores(card, {"out": np.zeros((1, 2, 8, 8)), "classes": np.array([[1]])}) is None
    True
    """
    target = _target(card)
    if target not in (*_TARGETS_BY_CLASS, _BINARY):
        return None
    columns = 1 if target == _BINARY else card.num_classes
    names = card.own_outputs if card.explained is None else [card.explained]
    own = [explanation[name] for name in names]
    found = [
        output.reshape(len(output), -1)
        for output in own
        # A model of one value may return (B,).
        if output.ndim < 3 and math.prod(output.shape[1:]) == columns
    ]
    if len(found) != 1:
        return None
    return cast(NDArray[Any], binary(found[0])) if target == _BINARY else found[0]


def class_probabilities(card: Card, scores: NDArray[Any]) -> NDArray[Any] | None:
    """The probabilities (B, N) that scores (B, N) of classes stand for, None where they stand for
    none, as those of a regression.

    The card says how they are made; an older one leaves it to the target: the sigmoid of a yes or
    no and of a single score, the softmax of others.

    >>> card = Card("gradcam", "layer4", ImageSpec(None, None), 2, ("scores", "classes"))
    >>> class_probabilities(card, np.zeros((1, 2)))
    array([[0.5, 0.5]])
    """
    kind = card.probabilities or default_probabilities(_target(card), card.num_classes)
    if kind == "softmax":
        with np.errstate(invalid="ignore"):  # of scores that are not finite
            return cast(NDArray[Any], probability(scores))
    if kind == "sigmoid":
        return cast(NDArray[Any], 0.5 + 0.5 * np.tanh(scores / 2))  # overflows nowhere
    return scores if kind == "scores" else None


def _target(card: Card) -> str:
    return str(card.options.get("target", "logit"))


def _takes_no_ids(card: Card) -> str:
    explained = "every class" if card.class_ids == "all" else f"the {card.top} best"
    return (
        f"class_ids were given to a file that explains {explained} by itself: leave them out, or "
        "export the model with class_ids='required' (--class-ids required)"
    )


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


def _namespace(array: Any) -> Any:
    """The array's functions.

    For NumPy its own do: array-api-compat's would import all of NumPy, 40 ms more.
    """
    return np if is_numpy_array(array) else array_namespace(array)


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
    size = [length or name[0].upper() for name, length in spec.space.items()]
    if spec.dtype == "uint8":
        return ("B", *size, spec.channels)
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
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        # ragged lists; arrays on a GPU, or that want gradients
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
    if not found.size or not np.isfinite(found).all():
        raise InputError(f"{given}, empty or with NaN or infinity; {expected}")
    return np.ascontiguousarray(found, dtype=np.float32)


def _on_the_cpu(class_ids: Any) -> NDArray[Any]:
    if hasattr(class_ids, "__dlpack__") and not hasattr(class_ids, "__array__"):
        return np.from_dlpack(class_ids)
    return np.asarray(class_ids)


def _check_device(name: str, array: Any, device: Device) -> None:
    kind = _CPU if is_numpy_array(array) else array.__dlpack_device__()[0]
    if kind not in (_CPU, _CUDA):
        raise InputError(f"{name} lies on DLPack device type {kind}; move it to the CPU or to CUDA")
    if kind == _CUDA and device == "cpu":
        raise InputError(
            f"{name} lies on CUDA, the file was loaded on the CPU: load(path, device='cuda'), or "
            f"move {name}"
        )


def _open_onnx(path: Path, card: Card, device: Device) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Errors only: onnxruntime warns where `class_ids` has a default, and so is optional.
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise InputError(
                "device is 'cuda', but this onnxruntime is built for the CPU: pip uninstall "
                "onnxruntime, then pip install 'camcore[gpu]' (the two builds exclude each other)"
            )
        providers.insert(0, "CUDAExecutionProvider")
        with redirect_stdout(sys.stderr):  # it prints what it cannot find
            onnxruntime.preload_dlls()
    try:
        # enable_fallback: on a CUDA failure onnxruntime would go on, slowly, on the CPU.
        session = onnxruntime.InferenceSession(path, options, providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions derive from nothing narrower
        raise FileError(
            f"onnxruntime {onnxruntime.__version__} cannot load the file: {error}"
        ) from error
    if providers[0] not in session.get_providers():
        raise InputError(
            "device is 'cuda', but onnxruntime could not start CUDA: it needs a driver, CUDA and "
            "cuDNN of the versions it was built for "
            "(https://onnxruntime.ai/docs/install/#cuda-and-cudnn)"
        )
    names = list(card.graph_outputs)

    def run(feeds: Mapping[str, Any]) -> Sequence[Any]:
        if is_numpy_array(feeds["image"]):
            dense = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
            return cast(Sequence[Any], _stoppable(lambda how: session.run(names, dense, how)))
        return _run_bound(session, names, feeds)

    return run


def _run_bound(session: Any, names: list[str], feeds: Mapping[str, Any]) -> Sequence[Any]:
    """Run on another library's memory, and hand out results as arrays of that library, uncopied."""
    image = feeds["image"]
    xp = array_namespace(image)
    device_type, device_id = image.__dlpack_device__()
    binding = session.io_binding()
    # Held until the run is over: a value of a NumPy array is but a view of it.
    values = {name: _ort_value(array, xp) for name, array in feeds.items()}
    for name, value in values.items():
        # Not bind_cpu_input: it does not know inputs that have a default.
        binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name, "cuda" if device_type == _CUDA else "cpu", device_id)
    # The caller's library and onnxruntime work on streams of their own: wait for both.
    binding.synchronize_inputs()
    _stoppable(lambda how: session.run_with_iobinding(binding, how))
    binding.synchronize_outputs()
    return [xp.from_dlpack(value) for value in binding.get_outputs()]


def _ort_value(array: Any, xp: Any) -> Any:
    from onnxruntime import OrtValue

    if is_numpy_array(array):  # class_ids, steps and the first state
        return OrtValue.ortvalue_from_numpy(array)
    if xp.isdtype(array.dtype, "bool"):  # which onnxruntime takes by DLPack from 1.32 on
        return OrtValue.ortvalue_from_numpy(np.from_dlpack(to_device(array, "cpu")).copy())
    return OrtValue.from_dlpack(_dense(array, xp))


def _stoppable(run: Callable[[Any], Any]) -> Any:
    """What a run of onnxruntime gives, told to stop when Ctrl-C is pressed.

    Python learns of it between two of its own steps, in the main thread: a run of many passes is
    one step of minutes, so it goes to another thread, and this one waits.
    """
    import onnxruntime

    how = onnxruntime.RunOptions()
    if threading.current_thread() is not threading.main_thread():
        return run(how)
    found: Future[Any] = Future()
    over = threading.Event()

    def work() -> None:
        try:
            found.set_result(run(how))
        except Exception as error:  # onnxruntime's exceptions derive from nothing narrower
            found.set_exception(error)
        finally:
            over.set()

    worker = threading.Thread(target=work, name="camcore-run")
    worker.start()
    try:
        # Not by `join`, which takes a thread for ended when Ctrl-C ends its wait. With a limit, for
        # not every system wakes up a wait that has none.
        while not over.wait(0.1):
            pass
    except KeyboardInterrupt:
        how.terminate = True
        over.wait()
        raise
    finally:
        worker.join()
    return found.result()


def _dense(array: Any, xp: Any) -> Any:
    """The array with its values in order in memory; onnxruntime takes no strides."""
    return xp.reshape(xp.reshape(array, (-1,)), array.shape)


def _open_torchscript(path: Path, card: Card, device: Device) -> Graph:
    torch = _torch(device, card)
    with warnings.catch_warnings():
        # torch recommends torch.export instead; that is the .pt2 beside this format.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated")
        try:
            module = torch.jit.load(path, map_location=device)
        except RuntimeError as error:
            raise FileError(f"torch {torch.__version__} cannot load the file: {error}") from error
    return _torch_graph(module, device)


def _open_exported(path: Path, card: Card, device: Device) -> Graph:
    torch = _torch(device, card)
    with warnings.catch_warnings():
        # torch 2.11 warns of its own reader, which takes weights from bytes it must not write to.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        try:
            program = torch.export.load(path)
        except Exception as error:  # its reader raises whatever it stumbles over
            raise FileError(f"torch {torch.__version__} cannot load the file: {error}") from error
    if device == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    # Without the guards that torch.export guessed from its example: the file was proven without.
    module = program.module(check_guards=False)

    def run(*values: Any) -> Any:
        named = dict(zip(card.graph_inputs, values, strict=True))
        for name in {"class_ids", _QUERIES} & named.keys():
            # One row of these serves any batch; the archive's signature wants one an image.
            named[name] = named[name].expand(len(values[0]), *named[name].shape[1:])
        return module(*named.values())

    return _torch_graph(run, device)


def _torch(device: Device, card: Card) -> Any:
    import torch

    if card.is_detector:
        import torchvision  # noqa: F401  # whose operators the file holds
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch finds no CUDA device")
    return torch


def _torch_graph(module: Callable[..., Sequence["torch.Tensor"]], device: Device) -> Graph:
    import torch

    def as_tensor(array: Any) -> "torch.Tensor":
        if is_numpy_array(array):
            # torch knows no negative strides, and warns about memory that is read-only.
            array = np.require(array, requirements=("C", "W"))
        return torch.utils.dlpack.from_dlpack(array)

    def run(feeds: Mapping[str, Any]) -> Sequence[Any]:
        image = feeds["image"]
        tensors = [as_tensor(array) for array in feeds.values()]
        with torch.no_grad():
            outputs = module(*(tensor.to(device) for tensor in tensors))
        if is_numpy_array(image):  # not by from_dlpack, which would make them read-only
            return [output.numpy(force=True) for output in outputs]
        xp = array_namespace(image)
        return [xp.from_dlpack(output.to(tensors[0].device)) for output in outputs]

    return run
