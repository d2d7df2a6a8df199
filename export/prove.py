"""Step 5, prove: a written file is run in its own runtime and compared with eager PyTorch, before anybody sees it."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from camcore.errors import ExportError, ProofError
from camcore.export.compose import Explained, Explanation, Request
from camcore.export.reference import explain_eagerly

# Single precision leaves about 1e-6 after a deep model; anything that is wrong is wrong by far more.
TOLERANCE = 1e-4

Runner = Callable[[Tensor, Tensor], Sequence[Any]]


def prove(path: Path, explained: Explained) -> dict[str, Any]:
    """Compare a file with the eager reference on images that the export never saw.

    Three batches of other content, batch size, classes and, where they are free, other sizes. Scores and maps may
    differ by `TOLERANCE` at most, relative to the largest reference value. Where single precision itself is worse
    than that (the map of a badly conditioned layer), the file may be as far from the result in double precision as
    eager PyTorch is. Maps must differ from image to image: one frozen into the graph would not.

    Returns:
        What was compared, for the card: runtime, number of images, worst relative error.

    Raises:
        ProofError: the file does not hold; the message says which output, on which input, and by how much.
    """
    request = explained.request
    runtime, run = RUNTIMES[path.suffix](path)
    worst, images, contrast = 0.0, 0, 0.0
    for image, class_ids in _fresh_inputs(explained):
        expected = explain_eagerly(request, image, class_ids)
        # Where classes tie, runtimes may rank them differently: maps are compared for the classes the file chose.
        given = Explanation(*(torch.as_tensor(output) for output in run(image, class_ids)))
        if not torch.equal(given.classes, expected.classes):
            expected = _agreed_on_ties(request, image, given, expected)
        for name in ("scores", "saliency_map"):
            error = _error(getattr(given, name), getattr(expected, name))
            if not error <= TOLERANCE:
                error = _beyond_rounding(request, image, given, expected, name, runtime)
            worst = max(worst, error)
        images += len(image)
        contrast = max(contrast, _contrast(request, image, given))
    if contrast == 0:
        raise ProofError(
            f"the map of layer {request.layer!r} is the same for every image, in the file and in eager PyTorch: there "
            "is nothing to explain there. Choose another layer, or check the model's weights"
        )
    return {"runtime": runtime, "images": images, "worst_relative_error": float(f"{worst:.2e}")}


def _fresh_inputs(explained: Explained) -> Iterator[tuple[Tensor, Tensor]]:
    """Smooth random images, none like the example, with class ids of every kind: best, top 2, named."""
    request, spec = explained.request, explained.card.image
    like = request.example
    generator = torch.Generator().manual_seed(20180)
    last = explained.card.num_classes - 1
    k = min(2, last + 1)
    cases = ((1, 0, [[-1]]), (3, 32, [[-1] * k]), (2, -16, [[last, 0][:k], [-1] * k]))
    for batch, growth, class_ids in cases:
        size = [
            length if spec.height is not None else max(length + growth * step, length // 2 + 1)
            for step, length in enumerate(like.shape[2:], 1)
        ]
        shape = (batch, like.shape[1])
        coarse = torch.randn(*shape, *[4] * len(size), generator=generator)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
        image = F.interpolate(coarse, size=size, mode=mode)
        image = 2 * image + 0.5 * torch.randn(*shape, *size, generator=generator)
        yield image.to(like), torch.tensor(class_ids, device=like.device)


def _error(given: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value; infinite where shapes differ."""
    if given.shape != expected.shape:
        return float("inf")
    given, expected = given.cpu().double(), expected.detach().cpu().double()
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((given - expected).abs().max() / scale)


def _agreed_on_ties(
    request: Request, image: Tensor, given: Explanation, expected: Explanation
) -> Explanation:
    """The reference for the classes the file chose, if their scores are as good as the reference's choice."""
    if given.classes.shape == expected.classes.shape and given.classes.max() < expected.scores.shape[1]:
        chosen = expected.scores.gather(1, given.classes)
        best = expected.scores.gather(1, expected.classes)
        if _error(chosen, best) <= TOLERANCE:
            return explain_eagerly(request, image, given.classes)
    raise ProofError(
        f"the file explains the classes {given.classes.tolist()}, eager PyTorch {expected.classes.tolist()}. "
        "Nothing was written"
    )


def _beyond_rounding(
    request: Request,
    image: Tensor,
    given: Explanation,
    expected: Explanation,
    name: str,
    runtime: str,
) -> float:
    """The file's error, if eager PyTorch in single precision is no nearer to double precision than the file."""
    exact_request = replace(request, model=deepcopy(request.model).double())
    exact = getattr(explain_eagerly(exact_request, image.double(), given.classes), name)
    error, eager = (_error(getattr(result, name), exact) for result in (given, expected))
    if error <= max(TOLERANCE, 4 * eager):
        return error
    where = (getattr(given, name).cpu().double() - exact).abs().flatten(1).amax(dim=1).argmax()
    raise ProofError(
        f"{name} from {runtime} is off by {error:.1e} relative to eager PyTorch (which is off by {eager:.1e} itself), "
        f"allowed is {TOLERANCE:.0e}: worst at image {int(where)} of an input of shape {tuple(image.shape)}, method "
        f"{request.method.name}, layer {request.layer!r}. Nothing was written"
    )


def _contrast(request: Request, image: Tensor, given: Explanation) -> float:
    """How much the first map of a batch differs between two images, for the class of the first."""
    if len(image) < 2:
        return 0.0
    same_class = given.classes[:1].expand(len(image), -1)
    maps = explain_eagerly(request, image, same_class).saliency_map
    return float((maps[0] - maps[1]).abs().max())


def _onnx(path: Path) -> tuple[str, Runner]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "an ONNX file is proven in onnxruntime, which is not installed; pip install 'camcore[run]' or 'camcore[gpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of the default of `class_ids`, which is meant
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor, class_ids: Tensor) -> Sequence[Any]:
        feeds = {"image": image.cpu().numpy(), "class_ids": class_ids.cpu().numpy()}
        return list(session.run(None, feeds))

    return f"onnxruntime {onnxruntime.__version__}", run


def _torchscript(path: Path) -> tuple[str, Runner]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        module = torch.jit.load(path)
    return f"TorchScript, torch {torch.__version__}", _without_gradients(module)


def _pt2(path: Path) -> tuple[str, Runner]:
    module = torch.export.load(path).module(check_guards=False)
    # The archive's own check wants one row of ids per image.
    return f"torch.export, torch {torch.__version__}", _without_gradients(
        lambda image, class_ids: module(image, class_ids.expand(len(image), -1))
    )


def _without_gradients(module: Callable[[Tensor, Tensor], Sequence[Any]]) -> Runner:
    def run(image: Tensor, class_ids: Tensor) -> Sequence[Any]:
        with torch.no_grad():
            return module(image, class_ids)

    return run


RUNTIMES: dict[str, Callable[[Path], tuple[str, Runner]]] = {
    ".onnx": _onnx,
    ".pt": _torchscript,
    ".pt2": _pt2,
}
