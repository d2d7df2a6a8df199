"""Methods beside Grad-CAM on a model that was read from a file, as on the net it was made of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.adapters.sources import read_onnx
from camcore.export import explain, save
from tests.adapters.sources.onnx.nets import SIZE, Attending, export

EXAMPLE = torch.zeros(1, 3, SIZE, SIZE)
OPTIONS: dict[str, dict[str, Any]] = {
    "fullgrad": {},
    "guided-backprop": {},
    "guided-gradcam": {"layer": "layer1"},
    "cam": {"layer": "layer1"},
    "scorecam": {"layer": "layer1"},
    "ablationcam": {"layer": "layer1.0"},
    "reciprocam": {"layer": "layer1"},
    "rise": {"n_masks": 24},
    "eigencam": {"layer": "layer1"},
    "shapleycam": {"layer": "layer1"},
}


def compare(net: nn.Module, file: Path, method: str, path: Path, **options: Any) -> None:
    """The maps of a file that was read are those of the net; and they are proven in a file."""
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    asked: dict[str, Any] = {"method": method, "dynamic_size": False, **options}
    read = explain(read_onnx(file), EXAMPLE, **asked)
    found = read(images, class_ids=torch.tensor([[0, 3]]))
    expected = explain(net, EXAMPLE, **asked)(images, class_ids=torch.tensor([[0, 3]]))
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.saliency_map, expected.saliency_map, rtol=0, atol=1e-4)
    assert expected.saliency_map.amax() > 0.5
    save(read, path)


@pytest.mark.slow
@pytest.mark.parametrize("method", OPTIONS)
def test_every_kind_of_method(file: Path, net: nn.Module, method: str, tmp_path: Path) -> None:
    compare(net, file, method, tmp_path / "explained.onnx", **OPTIONS[method])


class Free(Attending):
    """The same for any batch: `len` fixes the example's."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).transpose(1, 2)
        rows = torch.cat([self.token.expand(rows.shape[0], -1, -1), rows], dim=1)
        rows = rows + self.attention(rows, rows, rows, need_weights=False)[0]
        return self.head(rows[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "older"])
def test_attention_that_was_read(dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Free().eval()
    export(net, tmp_path / "m.onnx", dynamo=dynamo)
    compare(net, tmp_path / "m.onnx", "legrad", tmp_path / "explained.onnx")
