from pathlib import Path

import pytest
import torch

from camcore.adapters.sources.onnx.batch import batch_place
from camcore.adapters.sources.onnx.source import read_onnx
from tests.adapters.sources.onnx.nets import Attending, export


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_batch_of_one_is_freed(tmp_path: Path, dynamo: bool) -> None:
    """Also where the batch shares an axis with the heads, or with the tokens."""
    torch.manual_seed(0)
    net = Attending().eval()
    export(net, tmp_path / "m.onnx", dynamo=dynamo)
    model, images = read_onnx(tmp_path / "m.onnx"), torch.randn(5, 3, 24, 24)
    assert model.fixed_batch == 1
    with torch.no_grad():
        torch.testing.assert_close(model(images), net(images))


def test_where_a_batch_falls() -> None:
    assert batch_place((1, 768, 196), 1) == 0
    assert batch_place((16,), 1) == 0
    assert batch_place((51, 16), 7) is None
