"""The maps of one level, with all that a level may be asked for, beside its whole gradient."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from camcore.export.detectors.compose import _explainer
from camcore.export.detectors.geometry import Frame
from camcore.export.detectors.local import Window
from camcore.export.detectors.parts import Level, Regions
from camcore.methods import get_method
from tests.export.detectors.test_local import Head, graph_of
from tests.export.oracle import first_fast

GRID = (7, 9)
FRAME = Frame(GRID, GRID, GRID)


@pytest.mark.parametrize(
    "name", first_fast(["hirescam", "gradcam", "gradcam++", "xgradcam", "layercam", "eigengradcam"])
)
def test_raw_maps_are_those_of_the_gradient_at_the_whole_level(name: str) -> None:
    head = Head()
    window = Window(*graph_of(head, 1, 4, *GRID))
    r = window.radius
    example = torch.zeros(2, 4, 2 * r + 1, 2 * r + 1)
    method = get_method(name)
    request: Any = SimpleNamespace(
        method=method, options=method.options, relu=False, normalize=False
    )
    explainer = _explainer(window, 5, (example, example[:, :1]))
    level = Level(explainer, request, r)
    x = torch.rand(1, 4, *GRID, generator=torch.Generator().manual_seed(2), requires_grad=True)
    scores = head(x).flatten()
    ids = torch.tensor([0, 5, 62 + 63, 3 * 63 + 30])
    given = level(FRAME, ids[:, None], torch.ones(len(ids), 1), x.detach())
    for found, number in zip(given, ids, strict=True):
        (gradient,) = torch.autograd.grad(scores[number], x, retain_graph=True)
        expected = method.kernel(x.detach()[0], gradient[0], **method.options)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (given[0] - given[1]).abs().max() > 1e-3


class NothingEmptyReduced(TorchDispatchMode):
    """onnxruntime below 1.32 leaves the axes of an empty array that are reduced as they are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("sum", "mean", "amin", "amax", "min", "max"):
            assert args[0].numel(), f"{func} of {tuple(args[0].shape)}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", first_fast(["gradcam", "xgradcam", "hirescam", "eigengradcam"]))
def test_no_detection_gives_no_map(name: str) -> None:
    head: nn.Module = Head()
    window = Window(*graph_of(head, 1, 4, *GRID))
    example = torch.zeros(2, 4, 2 * window.radius + 1, 2 * window.radius + 1)
    explainer = _explainer(window, 5, (example, example[:, :1]))
    level = Level(explainer, asked(name), window.radius)
    with NothingEmptyReduced():
        none = torch.zeros(0, 1, dtype=torch.int64)
        maps = level(FRAME, none, torch.zeros(0, 1), torch.rand(1, 4, *GRID))
    assert maps.shape == (0, *GRID)


@pytest.mark.parametrize("regions", [0, 3])
def test_no_detection_of_regions(regions: int) -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 9, 5)).eval()
    explainer = _explainer(head, 5, (torch.zeros(2, 4, 3, 3),))
    part = Regions(explainer, asked("gradcam"), 5)
    with NothingEmptyReduced():
        none = torch.zeros(0, 1, dtype=torch.int64)
        features, corners = torch.rand(regions, 4, 3, 3), torch.rand(regions, 5)
        maps = part(FRAME, none, torch.zeros(0, 1), features, corners)
    assert maps.shape == (0, *GRID)


def asked(name: str) -> Any:
    method = get_method(name)
    return SimpleNamespace(method=method, options=method.options, relu=True, normalize=True)
