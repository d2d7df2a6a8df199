"""Ablation-CAM: beside the paper, the peer, and in its files."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.export import explain
from tests.export.models import (
    EXAMPLE,
    NUM_CLASSES,
    build,
    images,
)
from tests.export.oracle import TOLERANCE, worst_error
from tests.export.pass_oracle import Place, maps_of_passes
from tests.export.passing import (
    CASES,
    IDS,
    check_maps,
    check_options,
    maps_of_peer,
    options_of,
    pairs_in_turn,
    positive,
)

pytestmark = pytest.mark.usefixtures("shared_traces")
METHODS = ("ablationcam",)


@pytest.mark.parametrize(("method", "name"), pairs_in_turn(METHODS, 0))
def test_maps(method: str, name: str, models: dict[str, nn.Module]) -> None:
    """On another batch, of another size, of several classes."""
    check_maps(method, name, models)


@pytest.mark.parametrize(("method", "options"), options_of(*METHODS))
def test_options(method: str, options: dict[str, Any], models: dict[str, nn.Module]) -> None:
    check_options(method, options, models)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ablation_cam_of_the_peer(peer: ModuleType) -> None:
    """Behind a ReLU it ablates with 0, too, where 0 is in the activation of every image."""
    image = images(7, 2, 28, 20)
    for name, layer in (("affine", "features"), ("skip", "top")):
        model = positive(build(CASES[name].make))
        explained = explain(model, EXAMPLE, method="ablationcam", layer=layer)
        given = explained(image, torch.tensor(IDS)[:, None]).saliency_map[:, 0]
        expected = maps_of_peer(peer, "AblationCAM", model, layer, image, IDS, 3)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ablation_cam_of_the_peer_depends_on_its_batch_size(peer: ModuleType) -> None:
    """Where the activation has no 0, its value sinks from channel to channel of a batch."""
    model, image = positive(build(LastFree)), images(7, 2, 28, 20)
    first, second = (
        maps_of_peer(peer, "AblationCAM", model, "conv", image, IDS, batch) for batch in (1, 6)
    )
    assert np.abs(first - second).max() > 0.05
    explained = explain(model, EXAMPLE, method="ablationcam", layer="conv")
    place, ids = Place("conv"), torch.tensor(IDS)[:, None]
    expected = maps_of_passes("ablationcam", model, place, (image,), ids.tolist())
    assert worst_error(explained(image, ids).saliency_map.numpy(), expected) < TOLERANCE


class LastFree(nn.Module):
    """A layer without a ReLU behind it, and a bounded rest, for the peer's values are huge."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.fc = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)) / 3)  # type: ignore[no-any-return]
