"""Explained detectors that several tests look at; each takes seconds, so each is made once."""

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor, fx, nn

from camcore.export import ExplainedDetector, explain
from camcore.export.detectors.whole import trace_detector
from camcore.export.trace.trace import Trace
from tests.export.detectors.nets import DETECTORS, image

# Neither the size that the detector resizes to, nor its proportions: it is resized and padded.
GIVEN = (50, 70)
TOP = 5


@pytest.fixture(scope="session", autouse=True)
def shared_traces() -> Iterator[None]:
    """A detector is traced once for all explanations of it, of which it is most.

    Two are the same where all that they hold is, weights and thresholds. `test_whole` is about the
    trace, and has its own.
    """
    known: dict[Any, Trace] = {}

    def trace(model: nn.Module, image: Tensor, reading: Any, dynamic_size: bool | None) -> Trace:
        question = _identity(model), image.shape, reading, dynamic_size
        if question not in known:
            known[question] = trace_detector(model, image, reading, dynamic_size)
        found = known[question]
        # A graph of the same weights, for what is made of a graph changes it.
        return replace(found, graph=fx.GraphModule(found.graph, deepcopy(found.graph.graph)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("camcore.export.detectors.explain.trace_detector", trace)
        yield


def _identity(model: nn.Module) -> tuple[Any, ...]:
    """What two models have to have in common for one trace to be that of both."""
    held = [
        (name, type(module), {k: _told(v) for k, v in vars(module).items() if k[0] != "_"})
        for name, module in model.named_modules()
    ]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return str(held), *((name, value.detach().numpy().tobytes()) for name, value in tensors)


def _told(value: Any) -> str:
    """A value, or what an object of torchvision holds, wherever it lies in memory."""
    value = vars(value) if type(value).__module__.startswith("torchvision") else value
    return re.sub("0x[0-9a-f]+", "", repr(value))


@pytest.fixture(scope="session")
def detectors() -> dict[str, ExplainedDetector]:
    return {}


@pytest.fixture(params=DETECTORS)
def explained(request: pytest.FixtureRequest, detectors: dict[str, Any]) -> ExplainedDetector:
    """One small detector after the other, explained by Grad-CAM at its default layer."""
    name = request.param
    if name not in detectors:
        detectors[name] = explain(DETECTORS[name](), image(0, GIVEN), top=TOP, relu=False)
    found: ExplainedDetector = detectors[name]
    return found
