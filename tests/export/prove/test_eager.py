"""The eager run of a model: every layer noted, and the model left alone."""

import pytest
import torch
from torch import Tensor, nn

from camcore.export import Explained, explain
from tests.export.conftest import LAYER
from tests.export.eager import eagerly
from tests.export.models import build, images


def test_leaves_the_model_alone(explained: Explained, small_net: nn.Module) -> None:
    image = images(1, 2, 24, 24)
    before = small_net(image)
    eagerly(explained, (image,), torch.tensor([[-1, 0]]))
    assert torch.equal(small_net(image), before)
    for module in small_net.modules():
        assert not module._forward_hooks
    for parameter in small_net.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None


def test_an_activation_in_a_tuple() -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> tuple[int, dict[str, Tensor]]:
            return 4, {"map": self.conv(x).tanh()}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = Stem()
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.stem(x)[1]["map"].mean((2, 3)))  # type: ignore[no-any-return]

    explained = explain(build(Model), torch.zeros(1, 3, 24, 24), layer="stem")
    image, ids = images(1, 2, 24, 24), torch.tensor([[-1, 2]])
    given, expected = (
        explained(image, ids),
        eagerly(explained, (image,), ids),
    )
    assert expected.saliency_map.max() > 0.9
    torch.testing.assert_close(given.saliency_map, expected.saliency_map)


def test_removes_its_hook_after_an_error(explained: Explained, small_net: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        eagerly(explained, (images(1, 2, 24, 24, channels=4),), torch.tensor([[-1]]))
    assert not small_net.get_submodule(LAYER)._forward_hooks


def test_works_without_gradients_switched_on(explained: Explained) -> None:
    image, ids = images(1, 2, 24, 24), torch.tensor([[-1]])
    expected = eagerly(explained, (image,), ids)
    with torch.no_grad():
        given = eagerly(explained, (image,), ids)
    assert torch.equal(given.saliency_map, expected.saliency_map)
    assert not given.outputs[0].requires_grad


class PointsAsTokens(nn.Module):
    """The gradient comes to the batch norm as a transposed view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8)
        self.layer_norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return 100 * self.fc(self.layer_norm(tokens).tanh().mean(1))  # type: ignore[no-any-return]


def test_one_image_is_explained_as_it_is_among_others() -> None:
    explained = explain(
        build(PointsAsTokens), torch.zeros(1, 3, 24, 24), layer="conv", method="layercam"
    )
    image, ids = images(1, 2, 24, 24), torch.tensor([[1]])
    together = eagerly(explained, (image,), ids).saliency_map
    alone = eagerly(explained, (image[:1],), ids).saliency_map
    torch.testing.assert_close(alone, together[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(explained(image, ids).saliency_map, together, rtol=0, atol=1e-4)
    assert alone.max() > 0.9
