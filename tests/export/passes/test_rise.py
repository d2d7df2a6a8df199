"""RISE: beside the paper, of any number of masks."""

from typing import Any

import pytest
from torch import nn

from tests.export.passing import check_maps, check_options, options_of, pairs_in_turn

pytestmark = pytest.mark.usefixtures("shared_traces")
METHODS = ("rise",)


@pytest.mark.parametrize(("method", "name"), pairs_in_turn(METHODS, 0))
def test_maps(method: str, name: str, models: dict[str, nn.Module]) -> None:
    """On another batch, of another size, of several classes."""
    check_maps(method, name, models)


@pytest.mark.parametrize(("method", "options"), options_of(*METHODS))
def test_options(method: str, options: dict[str, Any], models: dict[str, nn.Module]) -> None:
    check_options(method, options, models)
