"""The reference of the proof: right by another way of finding gradients, and leaving no traces."""

import pytest
import torch
from torch import nn

from camcore.export import Explained
from tests.export.conftest import LAYER
from tests.export.eager import eagerly
from tests.export.models import build, images
from tests.export.oracle import Result, assert_same, explain_by_hand


@pytest.mark.parametrize("ids", [[[-1]], [[-1, 2, -1]], [[4, 0], [1, -1]]])
def test_agrees_with_the_transcription(
    ids: list[list[int]], explained: Explained, small_net: nn.Module
) -> None:
    image, class_ids = images(1, 2, 17, 40), torch.tensor(ids)
    outputs, *given, _ = eagerly(explained, (image,), class_ids)
    assert_same(Result(*outputs, *given), explain_by_hand(small_net, LAYER, image, class_ids))


def test_does_not_use_the_traced_graphs(
    explained: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.fx.GraphModule, "__call__", lambda *args: pytest.fail("a graph ran"))
    given = eagerly(explained, (images(1, 2, 24, 24),), torch.tensor([[-1]]))
    assert given.saliency_map.max() > 0.9


def test_the_models_of_the_tests_are_repeatable() -> None:
    """What is compared across processes must not depend on the order of tests."""
    torch.manual_seed(1)
    first = build(lambda: nn.Linear(3, 2))
    torch.manual_seed(2)
    second = build(lambda: nn.Linear(3, 2))
    assert torch.equal(first.weight, second.weight)
