"""Modes of PyTorch in `forward`: what changes nothing is inlined, and modules keep their names."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export import explain, save
from tests.export.models import SmallNet, build, images
from tests.export.oracle import TOLERANCE, worst_error

EXAMPLE = torch.zeros(1, 3, 24, 24)


class Idle(nn.Module):
    """Under autocast that is off, or meant for another device, and within it once more."""

    def __init__(self, device: str, enabled: bool) -> None:
        super().__init__()
        self.net = build(SmallNet)
        self.how = device, enabled

    def forward(self, x: Tensor) -> Tensor:
        device, enabled = self.how
        with torch.autocast(device, enabled=enabled), torch.autocast(device, enabled=False):
            scores: Tensor = self.net(x)
        return scores.float()


class Frozen(nn.Module):
    """A backbone under `no_grad`, as a frozen one has it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.tanh(self.first(x))
        return self.fc(torch.tanh(self.second(x)).mean((2, 3)))


@pytest.mark.parametrize(("device", "enabled"), [("cuda", False), ("cpu", False), ("cuda", True)])
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_idle_autocast_changes_nothing(device: str, enabled: bool) -> None:
    model = Idle(device, enabled).eval()
    explained = explain(model, EXAMPLE, layer="net.block.conv2", dynamic_size=True)
    image, ids = images(3, 2, 28, 20), torch.tensor([[0], [3]])
    plain = explain(model.net, EXAMPLE, layer="block.conv2", dynamic_size=True)
    expected = plain(image, ids).saliency_map.numpy()
    assert worst_error(explained(image, ids).saliency_map.numpy(), expected) < TOLERANCE


def test_a_layer_behind_no_grad_is_explained(tmp_path: Path) -> None:
    model = build(Frozen)
    card = save(explain(model, EXAMPLE, layer="second"), tmp_path / "model.pt")
    assert card.layer == "second"


def test_no_gradient_reaches_a_layer_under_no_grad(tmp_path: Path) -> None:
    model = build(Frozen)
    with pytest.raises(ExportError, match=r"no gradient reaches first, .*torch\.no_grad\(\)"):
        save(explain(model, EXAMPLE, layer="first"), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_methods_without_gradients_explain_a_layer_under_no_grad(tmp_path: Path) -> None:
    explained = explain(build(Frozen), EXAMPLE, layer="first", method="eigencam")
    assert save(explained, tmp_path / "model.pt").proof["worst_relative_error"] < TOLERANCE
