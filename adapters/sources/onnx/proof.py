"""The proof: a module beside the ONNX file that it was read from, in onnxruntime."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from camcore.adapters.sources.onnx.batch import free_batch
from camcore.adapters.sources.onnx.graph import Graph, load_proto
from camcore.adapters.sources.onnx.model import UINT8, OnnxModel
from camcore.adapters.sources.onnx.module import leaves
from camcore.errors import ExportError, FileError, ProofError
from camcore.export.prove.runtimes import load

if TYPE_CHECKING:
    from camcore.export import Explained

TOLERANCE = 1e-4
HALF_TOLERANCE = 5e-3

_TYPES = {1: np.float32, 2: np.uint8, 10: np.float16, 11: np.float64}
_SEVERAL = 3
# The size to try a file with that takes any.
_SIZE = 224


class Original:
    """An ONNX file in onnxruntime, as a function of images (B, C, H, W)."""

    def __init__(self, model: OnnxModel, proto: bytes | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError(
                "an ONNX model is read beside onnxruntime, which is not installed: "
                "pip install 'camcore[run]' or 'camcore[gpu]'"
            ) from error
        self.model = model
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        source = proto if proto is not None else str(model.graph.path)
        try:
            self._session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has its own, derived from nothing narrower
            raise FileError(
                f"{model.graph.path} does not run in onnxruntime: {str(error).splitlines()[0]}"
            ) from error
        self.runtime = f"onnxruntime {onnxruntime.__version__}"

    def __call__(self, images: Tensor) -> list[Any]:
        """The outputs of the file, those of single images put together where it takes but one."""
        if self.model.fixed_batch != 1:
            return self._run(images)
        rows = [self._run(image) for image in torch.split(images, 1)]
        return [
            np.concatenate(parts) if parts[0].ndim else parts[0]
            for parts in zip(*rows, strict=True)
        ]

    def _run(self, images: Tensor) -> list[Any]:
        (port,) = self.model.graph.inputs
        given = images.permute(0, 2, 3, 1) if self.model.channels_last else images
        array = np.ascontiguousarray(given.numpy()).astype(_TYPES[port.kind])
        return list(self._session.run(None, {port.name: array}))


def random_images(
    model: OnnxModel, count: int, seed: int = 0, size: Sequence[int | None] = (None, None)
) -> Tensor:
    """Images (B, C, H, W) of the kind of values that the file takes, and of a size that it does.

    Of the `size` that is asked for, where it takes any.
    """
    sides = [own or side or _SIZE for own, side in zip(model.size, size, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, model.channels or 3, *sides, generator=generator)
    if model.graph.inputs[0].kind == UINT8:
        return (noise * 60 + 120).clamp(0, 255).round()
    return noise.half().float() if model.graph.half else noise


def tolerance(graph: Graph) -> float:
    return HALF_TOLERANCE if graph.half else TOLERANCE


def prove_module(model: OnnxModel) -> float:
    """Compare a module with its file, for one image and for several, whose batch is made free.

    Returns:
        The worst error relative to the largest value of an output.

    Raises:
        ExportError: they differ, or the batch cannot be made free; the message names the first
            node that differs.
        FileError: onnxruntime cannot run the file.
    """
    graph, original = model.graph, Original(model)
    if model.fixed_batch not in (None, 1):
        raise ExportError(
            f"{graph.path} takes batches of {model.fixed_batch} images alone; expected one of any "
            "number, or of one. Export it with a batch that is dynamic"
        )
    image = random_images(model, 1, seed=1)
    with torch.no_grad():
        worst = _error(as_list(model, model(image)), _answers(original, image))
    if not worst <= tolerance(graph):
        raise ExportError(
            f"{graph.path}: {first_difference(model, image)}; nothing is explained that is not "
            f"read right. Give the model as PyTorch has it (seen in {original.runtime})"
        )
    images = random_images(model, _SEVERAL, seed=2)
    if model.fixed_batch is None and not _runs(original, images):
        # It says that any number will do, and holds shapes of the one that it was exported with.
        model.fixed_batch = 1
        model.notes = (*model.notes, "the file is made for one image, though it says of any number")
    try:
        if model.fixed_batch == 1:
            free_batch(model, images)
        with torch.no_grad():
            several = _error(as_list(model, model(images)), _answers(original, images))
    except Exception as error:  # of whatever node a shape does not fit
        raise ExportError(_no_batch(graph, str(error).splitlines()[0])) from error
    if not several <= tolerance(graph):
        raise ExportError(_no_batch(graph, f"answers would differ by {several:.1e}"))
    return max(worst, several)


def _runs(original: Original, images: Tensor) -> bool:
    """Whether the file takes several images, as it says."""
    try:
        original(images)
    except Exception:  # onnxruntime has its own, derived from nothing narrower
        return False
    return True


def _no_batch(graph: Graph, reason: str) -> str:
    return (
        f"{graph.path} is made for one image, and does not take more: {reason}. Export it with a "
        "batch that is dynamic"
    )


def _answers(original: Original, images: Tensor) -> list[Any]:
    try:
        return original(images)
    except Exception as error:  # onnxruntime has its own, derived from nothing narrower
        raise FileError(
            f"{original.model.graph.path} does not run in onnxruntime on images "
            f"{tuple(images.shape)}: {str(error).splitlines()[0]}"
        ) from error


def as_list(model: OnnxModel, returned: Any) -> list[Tensor]:
    """What a model returned of the file's own outputs."""
    values = list(returned.values()) if isinstance(returned, Mapping) else [returned]
    return values[: len(model.graph.outputs)]


def _error(given: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference relative to the largest value expected, of the worst output."""
    return max(relative_error(*pair) for pair in zip(given, expected, strict=True))


def relative_error(given: Any, expected: Any) -> float:
    ours, theirs = np.asarray(given, np.float64), np.asarray(expected, np.float64)
    if ours.size != theirs.size:
        return float("inf")
    if not theirs.size:
        return 0.0
    scale = max(float(np.abs(theirs).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(ours.reshape(theirs.shape) - theirs).max()) / scale


def first_difference(model: OnnxModel, image: Tensor) -> str:
    """The first node, in order, whose result differs from onnxruntime's."""
    with _recorded(model) as found, torch.no_grad():
        model(image)
    proto, _ = load_proto(model.graph.path)
    known = {value.name for value in proto.graph.output}
    for name in found:
        if name not in known:
            proto.graph.output.add().name = name
    names = [value.name for value in proto.graph.output]
    expected = dict(zip(names, Original(model, proto.SerializeToString())(image), strict=True))
    for node in model.graph.nodes:
        for name in node.outputs:
            if name in found and isinstance(found[name], Tensor):
                error = relative_error(found[name], expected[name])
                if not error <= tolerance(model.graph):
                    return f"{node.describe()} differs from onnxruntime by {error:.1e}"
    return "its outputs differ from onnxruntime, though no node of it does"


@contextmanager
def _recorded(model: OnnxModel) -> Iterator[dict[str, Any]]:
    """While it lasts, what each node makes is noted under the name of the value."""
    found: dict[str, Any] = {}
    by_module: dict[str, list[str]] = {}
    for value, module in leaves(model).items():
        by_module.setdefault(module, []).append(value)

    def note(names: Sequence[str]) -> Any:
        def hook(module: Any, values: Any, result: Any) -> None:
            results = result if isinstance(result, tuple) else (result,)
            found.update(zip(names, results, strict=False))

        return hook

    handles = [
        model.get_submodule(module).register_forward_hook(note(names))
        for module, names in by_module.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def prove_file(model: OnnxModel, explained: "Explained", path: Path) -> dict[str, Any]:
    """Compare the predictions of a written file with those of the original, on images of its own.

    Returns:
        What was compared, for the card.

    Raises:
        ProofError: they differ.
    """
    original, request = Original(model), explained.request
    runtime, run = load(path, explained.card)
    # A size that the original leaves free may be fixed here.
    size = tuple(explained.card.image.space.values())
    images = random_images(model, 2, seed=3, size=size)
    if request.pixels is not None:
        generator = torch.Generator().manual_seed(3)
        shape = (2, *images.shape[2:], images.shape[1])
        given = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        (images,) = request.prepared((given,))
    else:
        given = images
    results = run(given, torch.tensor([[-1]]))
    own = [np.asarray(each) for each in results[: len(model.graph.outputs)]]
    expected = _answers(original, images)
    error = _error(own, expected)
    if not error <= tolerance(model.graph):
        raise ProofError(
            f"the written file in {runtime} differs from {model.graph.path} in "
            f"{original.runtime} by {error:.1e} relative; allowed is {tolerance(model.graph):.0e}"
        )
    return {
        "original": model.graph.sha256,
        "original_runtime": original.runtime,
        "original_relative_error": float(f"{error:.2e}"),
    }
