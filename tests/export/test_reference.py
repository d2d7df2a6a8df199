"""The reference of the proof: right by another way of finding gradients, and leaving no traces."""

import pytest
import torch
from torch import nn

from camcore.export import Explained
from camcore.export.reference import explain_eagerly
from tests.export.conftest import LAYER
from tests.export.models import build, images
from tests.export.oracle import assert_same, explain_by_hand


@pytest.mark.parametrize("ids", [[[-1]], [[-1, 2, -1]], [[4, 0], [1, -1]]])
def test_agrees_with_the_transcription(
    ids: list[list[int]], explained: Explained, small_net: nn.Module
) -> None:
    image, class_ids = images(1, 2, 17, 40), torch.tensor(ids)
    given = explain_eagerly(explained.request, image, class_ids)
    assert_same(given, explain_by_hand(small_net, LAYER, image, class_ids))


def test_does_not_use_the_traced_graphs(
    explained: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.fx.GraphModule, "__call__", lambda *args: pytest.fail("a graph ran"))
    given = explain_eagerly(explained.request, images(1, 2, 24, 24), torch.tensor([[-1]]))
    assert given.saliency_map.max() > 0.9


def test_leaves_the_model_alone(explained: Explained, small_net: nn.Module) -> None:
    image = images(1, 2, 24, 24)
    before = small_net(image)
    explain_eagerly(explained.request, image, torch.tensor([[-1, 0]]))
    assert torch.equal(small_net(image), before)
    for module in small_net.modules():
        assert not module._forward_hooks
    for parameter in small_net.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None


def test_removes_its_hook_after_an_error(explained: Explained, small_net: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        explain_eagerly(explained.request, images(1, 2, 24, 24, channels=4), torch.tensor([[-1]]))
    assert not small_net.get_submodule(LAYER)._forward_hooks


def test_works_without_gradients_switched_on(explained: Explained) -> None:
    image, ids = images(1, 2, 24, 24), torch.tensor([[-1]])
    expected = explain_eagerly(explained.request, image, ids)
    with torch.no_grad():
        given = explain_eagerly(explained.request, image, ids)
    assert torch.equal(given.saliency_map, expected.saliency_map)
    assert not given.scores.requires_grad


def test_the_models_of_the_tests_are_repeatable() -> None:
    """What is compared across processes must not depend on the order of tests."""
    torch.manual_seed(1)
    first = build(lambda: nn.Linear(3, 2))
    torch.manual_seed(2)
    second = build(lambda: nn.Linear(3, 2))
    assert torch.equal(first.weight, second.weight)
