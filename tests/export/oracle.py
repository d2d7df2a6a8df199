"""What a file ought to return, found another way than by `camcore.export`, and how near it comes.

One image and one class at a time, through the model itself; the equations are loops in float64.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.export import explain
from camcore.methods import METHODS
from camcore.weighting import randomcam_weights
from tests.camcore import references
from tests.export.models import EXAMPLE, images

# Relative to the largest expected value.
TOLERANCE = 1e-4


def in_turn(methods: Iterable[Any], formats: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    """Each method with each format, of which one in turn is tested always, the others if slow."""
    return [
        pytest.param(method, suffix, marks=[] if n % len(formats) == m else pytest.mark.slow)
        for n, method in enumerate(methods)
        for m, suffix in enumerate(formats)
    ]


def fast_in(fast: str) -> list[Any]:
    """The formats, of which one is tested always, the others if slow."""
    return [
        fast if suffix == fast else pytest.param(suffix, marks=pytest.mark.slow)
        for suffix in (".onnx", ".pt", ".pt2")
    ]


def first_fast(cases: Iterable[Any], count: int = 1) -> list[Any]:
    """The cases, of which the first ones are tested always, the others if slow."""
    return [
        case
        if n < count
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for n, case in enumerate(cases)
    ]


class Result(NamedTuple):
    scores: np.ndarray
    classes: np.ndarray
    saliency_map: np.ndarray


def explain_by_hand(
    model: nn.Module,
    layer: str,
    image: Tensor,
    class_ids: Tensor,
    *,
    method: str = "gradcam",
    full_size: bool = True,
    **options: Any,
) -> Result:
    """The result for images (B, C, *S) and class ids (B or 1, K), in the precision of the model."""
    class_ids = class_ids.expand(len(image), -1)
    results = [
        _explain_one(model, layer, one[None], ids.tolist(), method, full_size, options)
        for one, ids in zip(image, class_ids, strict=True)
    ]
    return Result(*(np.stack(values) for values in zip(*results, strict=True)))


def _explain_one(
    model: nn.Module,
    layer: str,
    image: Tensor,
    class_ids: list[int],
    method: str,
    full_size: bool,
    options: dict[str, Any],
) -> tuple[np.ndarray, ...]:
    scores, activation, delta = run_one(model, layer, image)
    values = scores[0].tolist()
    ranking = sorted(range(len(values)), key=lambda c: -values[c])
    classes = [ranking[k] if c == -1 else c for k, c in enumerate(class_ids)]
    size = tuple(image.shape[2:]) if full_size else None
    maps = []
    for c in classes:
        (gradient,) = torch.autograd.grad(scores[0, c], delta, retain_graph=True)
        maps.append(_map(activation, gradient[0].double().numpy(), method, size, options))
    return scores[0].detach().double().numpy(), np.array(classes), np.stack(maps)


def run_one(model: nn.Module, layer: str, image: Tensor) -> tuple[Tensor, np.ndarray, Tensor]:
    """Scores, the layer's output, and a zero added to it, which has the same gradient."""
    calls: list[tuple[np.ndarray, Tensor]] = []

    def perturb(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        delta = torch.zeros_like(output, requires_grad=True)
        calls.append((output[0].detach().double().numpy().copy(), delta))
        return output + delta

    handle = model.get_submodule(layer).register_forward_hook(perturb)
    try:
        with torch.enable_grad():
            scores = model(image)
    finally:
        handle.remove()
    return scores, *calls[-1]


def _map(
    activation: np.ndarray,
    gradient: np.ndarray,
    method: str,
    size: tuple[int, ...] | None,
    options: dict[str, Any],
) -> np.ndarray:
    channels, *space = activation.shape
    a, g = activation.reshape(channels, -1), gradient.reshape(channels, -1)
    if method == "cam":
        # Behind average pooling and a linear layer, every gradient is weight / number of points.
        raw = references.weighted_sum(a, g.sum(axis=1)).reshape(space)
        # No rectification: shifted so that it changes nothing.
        return references.postprocess(raw - raw.min(), size)
    if method == "randomcam":
        # Random by definition: only that the same weights come out is to be seen.
        weights = randomcam_weights(activation, **options)
        return references.postprocess(references.weighted_sum(a, weights).reshape(space), size)
    if method in EIGEN:
        raw = EIGEN[method](a, g, **options)
    elif not METHODS[method].class_specific:
        raw = getattr(references, method)(a, **options)
    else:
        equation = getattr(references, method.replace("++", "_plus_plus").replace("-", "_"))
        raw = equation(a, g, **options)
    return references.postprocess(raw.reshape(space), size)


def _flipped(raw: np.ndarray) -> np.ndarray:
    return -raw if abs(raw.min()) > abs(raw.max()) else raw


EIGEN: dict[str, Any] = {
    "eigencam": lambda a, g: references.first_component(a),
    "eigengradcam": lambda a, g: references.first_component(g * a),
    "segeigencam": lambda a, g: _flipped(references.first_component(abs(g) * a)),
    "kpcacam": lambda a, g, **options: references.kpcacam(a, **options),
}


def maps_by_hand(
    model: nn.Module,
    layers: Sequence[str],
    inputs: Sequence[Tensor],
    classes: Sequence[Sequence[int]],
    objective: Callable[[Any, int], Tensor],
    *,
    reshape: Callable[[Tensor], Tensor] = lambda value: value,
    weighted: Callable[[np.ndarray, np.ndarray], np.ndarray] = references.gradcam,
    how: str = "mean",
) -> np.ndarray:
    """Maps (B, K, *S) of `objective(output, c)`, a scalar of the model's output for one image.

    In double precision. `reshape` makes (1, C, *S) of a layer's output; `weighted` takes
    activations and gradients, both (C, P), and gives a raw map (P,).
    """
    twin = deepcopy(model).double()
    inputs = [value.double() if value.is_floating_point() else value for value in inputs]
    size = tuple(inputs[0].shape[2:])
    maps = []
    for n, ids in enumerate(classes):
        output, calls = _record(twin, layers, [value[n : n + 1] for value in inputs])
        own = []
        for c in ids:
            deltas = [delta for _, delta in calls]
            found = torch.autograd.grad(objective(output, c), deltas, retain_graph=True)
            by_layer = []
            for (activation, _), gradient in zip(calls, found, strict=True):
                a, g = reshape(activation)[0].numpy(), reshape(gradient)[0].numpy()
                channels, *space = a.shape
                raw = weighted(a.reshape(channels, -1), g.reshape(channels, -1)).reshape(space)
                scaled = references.normalize(np.maximum(raw, 0))
                by_layer.append(references.resize(scaled, size))
            if how == "product":
                combined = np.prod([references.normalize(each) for each in by_layer], axis=0)
            else:
                combined = {"mean": np.mean, "max": np.max}[how](by_layer, axis=0)
            own.append(references.normalize(combined))
        maps.append(own)
    return np.array(maps)


def _record(
    model: nn.Module, layers: Sequence[str], inputs: Sequence[Tensor]
) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """The model's output, and of each layer the value of its last call and a zero added to it."""
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def perturb(layer: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            delta = torch.zeros_like(output, requires_grad=True)
            calls[layer] = output.detach().clone(), delta
            return output + delta

        return hook

    handles = [model.get_submodule(layer).register_forward_hook(perturb(layer)) for layer in layers]
    try:
        with torch.enable_grad():
            output = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return output, [calls[layer] for layer in layers]


def run_file(path: Path, image: Tensor, class_ids: Tensor) -> Result:
    """What the file of a model with one output returns, read as its user would read it."""
    return Result(*run_any_file(path, image, class_ids).values())


def run_any_file(path: Path, *inputs: Tensor) -> dict[str, np.ndarray]:
    """What a file returns in its own runtime, by name; without names they are counted."""
    if path.suffix == ".onnx":
        import onnx
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        # Not from the session, which lists an input with a default apart.
        ports = onnx.load(path).graph.input
        feeds = {port.name: value.numpy() for port, value in zip(ports, inputs, strict=True)}
        names = [port.name for port in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    if path.suffix == ".pt":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit\.load")
            module = torch.jit.load(path)
    else:
        module = torch.export.load(path).module(check_guards=False)
        # Its signature wants a row of ids for each image.
        inputs = tuple(
            value.expand(len(inputs[0]), -1)
            if value.dtype == torch.int64 and value.ndim == 2
            else value
            for value in inputs
        )
    with torch.no_grad():
        return {str(n): output.numpy() for n, output in enumerate(module(*inputs))}


def worst_error(given: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value; absolute where all are 0."""
    assert given.shape == expected.shape
    assert np.isfinite(given).all()
    return float(np.abs(given - expected).max() / (np.abs(expected).max() or 1.0))


def assert_same(given: Any, expected: Result, tolerance: float = TOLERANCE) -> None:
    """Scores, classes and maps agree; `given` is a `Result` or an `Explanation`."""
    np.testing.assert_array_equal(given.classes, expected.classes)
    assert worst_error(np.asarray(given.scores), expected.scores) < tolerance
    assert worst_error(np.asarray(given.saliency_map), expected.saliency_map) < tolerance


def assert_follows(
    given: Result, model: nn.Module, layer: str, image: Tensor, class_ids: Tensor
) -> None:
    """`given` is what the model gives eagerly, map by map, in single or in double precision.

    A deep model has units whose input is a rounding error away from the kink of a ReLU: they may
    let a gradient through in one precision and not in the other, and the maps differ by percents.
    """
    single = explain_by_hand(model, layer, image, torch.as_tensor(given.classes))
    assert worst_error(given.scores, single.scores) < TOLERANCE
    _assert_chosen(given.classes, single.scores, class_ids.expand(len(image), -1).numpy())
    errors = _map_errors(given, single)
    if errors.max() >= TOLERANCE:
        twin = deepcopy(model).double()
        double = explain_by_hand(twin, layer, image.double(), torch.as_tensor(given.classes))
        errors = np.minimum(errors, _map_errors(given, double))
    assert errors.max() < TOLERANCE


def _assert_chosen(classes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray) -> None:
    """The classes asked for; for -1 the k-th best, or one whose score ties with it."""
    best = -np.sort(-scores, axis=1)[:, : classes.shape[1]]
    chosen = np.take_along_axis(scores, classes, axis=1)
    ties = np.abs(chosen - best) < TOLERANCE * np.abs(scores).max()
    assert np.where(class_ids == -1, ties, classes == class_ids).all()


def _map_errors(given: Result, expected: Result) -> np.ndarray:
    """`worst_error` of each map (B, K)."""
    pairs = zip(given.saliency_map, expected.saliency_map, strict=True)
    return np.array([[worst_error(g, e) for g, e in zip(*maps, strict=True)] for maps in pairs])


def exact(model: nn.Module, layer: str, image: Tensor, ids: Any, **options: Any) -> Any:
    """The transcription, in double precision."""
    twin = deepcopy(model).double()
    return explain_by_hand(twin, layer, image.double(), torch.as_tensor(ids), **options)


def assert_method_is_exact(model: nn.Module, method: str, layer: str, **options: Any) -> None:
    """The explained module gives what the transcription gives, at sizes of every kind."""
    explained = explain(model, EXAMPLE, method=method, layer=layer, **options)
    for shape in ((3, 24, 24), (1, 17, 40), (2, 48, 9)):
        image = images(1, *shape)
        expected = exact(model, layer, image, [[-1, 2]], method=method, **options)
        assert expected.saliency_map.max() > 0.9
        assert_same(explained(image, torch.tensor([[-1, 2]])), expected)
