"""Score-CAM, SS-CAM and IS-CAM: beside the papers, the peer, and in their files."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.export.models import (
    images,
)
from tests.export.passing import (
    CASES,
    IDS,
    check_maps,
    check_options,
    maps_of_peer,
    options_of,
    pairs_in_turn,
)

pytestmark = pytest.mark.usefixtures("shared_traces")
METHODS = (
    "scorecam",
    "sscam",
    "iscam",
)


@pytest.mark.parametrize(("method", "name"), pairs_in_turn(METHODS, 0))
def test_maps(method: str, name: str, models: dict[str, nn.Module]) -> None:
    """On another batch, of another size, of several classes."""
    check_maps(method, name, models)


@pytest.mark.parametrize(("method", "options"), options_of(*METHODS))
def test_options(method: str, options: dict[str, Any], models: dict[str, nn.Module]) -> None:
    check_options(method, options, models)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_score_cam_of_the_peer(peer: ModuleType, models: dict[str, nn.Module]) -> None:
    """With its masks' corners aligned, for which there is an option."""
    image = images(7, 2, 28, 20)
    for name in ("affine", "skip"):
        case, model = CASES[name], models[name]
        explained = case.explain(model, "scorecam", align_corners=True)
        given = explained(image, torch.tensor(IDS)[:, None]).saliency_map[:, 0]
        expected = maps_of_peer(peer, "ScoreCAM", model, case.place.layer, image, IDS, 16)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "options", "plain"),
    [
        ("scorecam", {"channels": None}, {"channels": 8}),
        ("iscam", {"samples": 1}, {}),
        ("sscam", {"std": 0.0}, {}),
    ],
)
def test_options_that_make_it_score_cam(
    method: str, options: dict[str, Any], plain: dict[str, Any], models: dict[str, nn.Module]
) -> None:
    """All channels are no choice; one variant, or noise of no strength, is none."""
    case, model = CASES["skip"], models["skip"]
    inputs, ids = case.inputs(4, 2, 24, 20), torch.tensor([[1, 3]])
    given = case.explain(model, method, **options)(*inputs, ids).saliency_map
    expected = case.explain(model, "scorecam", **plain)(*inputs, ids).saliency_map
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
