"""Recipro-CAM and its twin for tokens: beside the papers, and in their files."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.export.passing import CASES, check_maps, check_options, options_of, pairs_in_turn

pytestmark = pytest.mark.usefixtures("shared_traces")
METHODS = (
    "reciprocam",
    "vit-reciprocam",
)


@pytest.mark.parametrize(("method", "name"), pairs_in_turn(METHODS, 0))
def test_maps(method: str, name: str, models: dict[str, nn.Module]) -> None:
    """On another batch, of another size, of several classes."""
    check_maps(method, name, models)


@pytest.mark.parametrize(("method", "options"), options_of(*METHODS))
def test_options(method: str, options: dict[str, Any], models: dict[str, nn.Module]) -> None:
    check_options(method, options, models)


def test_the_twin_for_tokens_blurs_its_masks(models: dict[str, nn.Module]) -> None:
    case, model = CASES["tokens"], models["tokens"]
    inputs, ids = case.inputs(4, 2), torch.tensor([[1, 3]])
    given = case.explain(model, "vit-reciprocam")(*inputs, ids).saliency_map
    blurred = case.explain(model, "reciprocam", gaussian=True)(*inputs, ids).saliency_map
    torch.testing.assert_close(given, blurred, rtol=0, atol=1e-5)
