"""Methods of activations alone, against a transcription in NumPy."""

import pytest
import torch
from torch import nn

import camcore
from camcore.export import explain
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, images
from tests.export.oracle import assert_method_is_exact, in_turn

pytestmark = pytest.mark.usefixtures("shared_traces")
METHODS = [m.name for m in camcore.METHODS.values() if m.needs == "activations"]


@pytest.mark.parametrize(("method", "layer"), in_turn(METHODS, ["top", LAYER]))
def test_every_method(method: str, layer: str, small_net: nn.Module) -> None:
    assert_method_is_exact(small_net, method, layer)


@pytest.mark.parametrize("method", METHODS)
def test_no_class_has_a_say(method: str, small_net: nn.Module) -> None:
    """Every class asked for has the one map, the prediction is the model's own."""
    image = images(3, 2, 20, 28)
    given = explain(small_net, EXAMPLE, method=method, layer="top")(image, torch.tensor([[4, 0]]))
    assert torch.equal(given.scores, small_net(image))
    assert torch.equal(given.saliency_map[:, 0], given.saliency_map[:, 1])
    assert (given.saliency_map[0] - given.saliency_map[1]).abs().max() > 0.1
