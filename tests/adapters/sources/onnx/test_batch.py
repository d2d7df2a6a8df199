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


def test_a_batch_that_only_looks_free(tmp_path: Path) -> None:
    """The file says that any number will do, and holds shapes of the one it was tried on."""
    torch.manual_seed(0)
    net = Attending().eval()  # of which the older exporter takes len() for a number
    axes = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    export(net, tmp_path / "m.onnx", dynamo=False, **axes)
    model, images = read_onnx(tmp_path / "m.onnx"), torch.randn(5, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(images), net(images))
    assert any("made for one image" in note for note in model.notes)
