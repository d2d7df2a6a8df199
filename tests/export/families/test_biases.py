"""FullGrad: what the image and every bias contribute."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError, InputError
from camcore.export import explain, save
from camcore.export.families import biases as families
from camcore.export.find.biases import find_biases
from tests.export.models import EXAMPLE, build, images

pytestmark = pytest.mark.usefixtures("shared_traces")


def test_fullgrad_is_that_of_pytorch_grad_cam(small_net: nn.Module) -> None:
    peer = pytest.importorskip("pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    explained = explain(small_net, EXAMPLE, method="fullgrad")
    image, ids = images(1, 2, 32, 32), torch.tensor([[4, 1], [0, 2]])
    given = explained(image, ids).saliency_map.numpy()
    twin = deepcopy(small_net)
    for k in range(2):
        with peer.FullGrad(twin, []) as fullgrad:
            chosen = [targets.ClassifierOutputTarget(int(c)) for c in ids[:, k]]
            expected = fullgrad(input_tensor=image.clone(), targets=chosen)
        np.testing.assert_allclose(given[:, k], expected, atol=1e-4)
    assert np.abs(given[0] - given[1]).max() > 0.1


def test_fullgrad_takes_no_layer(small_net: nn.Module) -> None:
    card = explain(small_net, EXAMPLE, method="fullgrad").card
    assert card.layer == "every bias"
    with pytest.raises(InputError, match="leave out layer"):
        explain(small_net, EXAMPLE, method="fullgrad", layer="top")


class Shared(nn.Module):
    """One convolution at two places, and a shift of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.shift = nn.Parameter(torch.randn(6, 1, 1))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.stem(x))))
        x = torch.tanh(self.twice(-x)) + self.shift
        return self.fc(torch.tanh(x).mean((2, 3)))  # type: ignore[no-any-return]


class Apart(Shared):
    """The same with two convolutions, and with a convolution that shifts."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.stem, self.twice, self.fc = shared.stem, shared.twice, shared.fc
        self.again = deepcopy(shared.twice)
        self.shifts = nn.Conv2d(6, 6, 1, groups=6)
        nn.init.ones_(self.shifts.weight)
        self.shifts.bias = nn.Parameter(shared.shift.detach().flatten())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.stem(x))))
        x = self.shifts(torch.tanh(self.again(-x)))
        return self.fc(torch.tanh(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_every_call_and_every_sum_counts(tmp_path: Path) -> None:
    shared = build(Shared)
    explained = explain(shared, EXAMPLE, method="fullgrad")
    image, ids = images(2, 2, 40, 24), torch.tensor([[4, 1], [0, 2]])
    apart = explain(Apart(shared).eval(), EXAMPLE, method="fullgrad")
    torch.testing.assert_close(explained(image, ids), apart(image, ids), atol=1e-5, rtol=1e-5)
    save(explained, tmp_path / "shared.pt")


def test_a_bias_that_is_left_out_is_found_by_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "find_biases", lambda traced: find_biases(traced)[:-1])
    explained = explain(build(Shared), EXAMPLE, method="fullgrad")
    with pytest.raises(ExportError, match="4 biases are added in eager PyTorch and 3"):
        save(explained, tmp_path / "shared.pt")
    assert not list(tmp_path.iterdir())


def test_a_model_without_biases_is_refused() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ExportError, match="adds one to its channels"):
        explain(plain.eval(), EXAMPLE, method="fullgrad")
