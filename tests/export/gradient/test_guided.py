"""Every ReLU of a model is guided, in whatever spelling, and nothing else."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.export import explain
from camcore.export.gradient.guided import GuidedReLUs
from tests.export.eager import eagerly
from tests.export.models import EXAMPLE, NUM_CLASSES, Classifier, build, images


class Called(nn.Module):
    """A ReLU in every spelling, in place and not, a threshold that is one and one that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv[0](x))
        x = F.relu(self.conv[1](x), inplace=True)
        x = torch.relu(self.conv[2](x))
        x = self.conv[3](x).relu()
        x = self.conv[4](x)
        x.relu_()
        x = F.relu(input=self.conv[5](x))
        x = torch.relu_(self.conv[6](x))
        return F.threshold(self.conv[7](x), 0.05, 0.0)


@pytest.mark.parametrize("method", ["guided-backprop", "guided-gradcam"])
def test_every_relu_is_guided(method: str) -> None:
    model = build(lambda: Classifier(Called(), 3))
    options = {} if method == "guided-backprop" else {"layer": "features"}
    explained = explain(model, EXAMPLE, method=method, **options)
    image, ids = images(2, 3, 20, 24), torch.arange(NUM_CLASSES)[None]
    given = explained(image, ids).saliency_map
    eager = eagerly(explained, (image,), ids).saliency_map
    torch.testing.assert_close(given, eager, rtol=0, atol=1e-4)
    assert given.amax(dim=(2, 3)).max() > 0.9
    relus = [node for node in explained.body.tail.graph.nodes if "aten.relu" in str(node.target)]
    assert len(relus) >= 7


numbers = st.lists(st.integers(-3, 3).map(float), min_size=6, max_size=6).map(torch.tensor)


def gradient(function: Any, x: Tensor, arriving: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(x), x, arriving)
    return found


@given(x=numbers, arriving=numbers)
def test_what_passes_a_relu(x: Tensor, arriving: Tensor) -> None:
    """Where its output and what arrives are both above zero."""
    with GuidedReLUs() as relus:
        found = gradient(torch.relu, x, arriving)
    assert relus.seen
    assert torch.equal(found, torch.where((x > 0) & (arriving > 0), arriving, 0.0))


@given(x=numbers, arriving=numbers)
@pytest.mark.parametrize(
    "function", [F.relu6, F.gelu, torch.tanh, lambda x: F.threshold(x, 0.5, 0.0)]
)
def test_what_is_no_relu_keeps_its_gradient(function: Any, x: Tensor, arriving: Tensor) -> None:
    with GuidedReLUs() as relus:
        found = gradient(function, x, arriving)
    assert not relus.seen
    assert torch.equal(found, gradient(function, x, arriving))
