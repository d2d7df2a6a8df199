"""A prediction, and the gradient of each class's score at the layers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.export import Explained, explain
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, images
from tests.export.oracle import run_one

pytestmark = pytest.mark.usefixtures("shared_traces")

CLASSES = torch.tensor([[4, 0], [2, 2], [1, 3]])


def gradients_by_hand(model: nn.Module, layer: str, image: Tensor) -> Tensor:
    """(K, B, C, *S), one image and one class at a time."""
    rows = []
    for ids in CLASSES.t().tolist():
        row = []
        for one, c in zip(image, ids, strict=True):
            scores, _, delta = run_one(model, layer, one[None])
            row += torch.autograd.grad(scores[0, c], delta)
        rows.append(torch.cat(row))
    return torch.stack(rows)


@pytest.mark.parametrize("layers", [(LAYER,), (LAYER, "top"), ("stem", LAYER, "top")])
def test_one_pass_back_for_each_class(layers: tuple[str, ...], small_net: nn.Module) -> None:
    """Where layers lie behind each other, too."""
    explained = explain(small_net, EXAMPLE, layer=layers)
    body: Any = explained.body
    image = images(2, 3, 20, 28)
    (scores, ranking), seen = body.observe([image])
    assert torch.equal(scores, small_net(image))
    assert torch.equal(ranking, scores)
    rows = CLASSES.t()
    found = body._by_class(body._pass_back(seen.saved, rows), rows.shape)
    for layer, activation, gradient in zip(
        explained.found.layers, seen.activations, found, strict=True
    ):
        _, expected, _ = run_one(small_net, layer, image[:1])
        np.testing.assert_allclose(activation[0], expected, rtol=0, atol=1e-5)
        by_hand = gradients_by_hand(small_net, layer, image)
        largest = float(by_hand.abs().max())
        assert largest > 1e-5
        torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-5 * largest)


def test_maps_of_a_class_do_not_depend_on_the_others(explained: Explained) -> None:
    body: Any = explained.body
    _, seen = body.observe([images(2, 3, 20, 28)])
    (together,) = body.raw_maps(seen, CLASSES)
    assert together.shape[:2] == CLASSES.shape
    for k, column in enumerate(CLASSES.t()):
        (alone,) = body.raw_maps(seen, column[:, None])
        torch.testing.assert_close(together[:, k], alone[:, 0])
