import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from camcore.adapters import read_card
from camcore.adapters.sources import read_onnx
from camcore.adapters.sources.build import build_model
from camcore.errors import InputError
from tests.adapters.cli.calls import camcore, done, failed


def eager_gradcam(net: nn.Module, images: torch.Tensor, classes: list[int]) -> np.ndarray:
    """Grad-CAM at `layer1` by a hook and autograd, resized by OpenCV."""
    kept = []
    hook = net.get_submodule("layer1").register_forward_hook(lambda m, i, o: kept.append(o))
    scores = net(images)
    hook.remove()
    (activations,) = kept
    chosen = scores[torch.arange(len(images)), torch.tensor(classes)].sum()
    (gradients,) = torch.autograd.grad(chosen, activations)
    weights = gradients.mean((2, 3), keepdim=True)
    maps = torch.relu((weights * activations).sum(1)).detach().numpy()
    return np.stack([unit(cv2.resize(unit(each), images.shape[:1:-1])) for each in maps])


def unit(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / max(float(np.ptp(x)), 1e-7)


def test_a_file_that_explains_itself_from_one_that_does_not(
    file: Path, net: nn.Module, tmp_path: Path
) -> None:
    """The command line; scores and maps are those of the net that the file was made of."""
    out = tmp_path / "explained.onnx"
    said = done(camcore("export", file, "--layer", "layer1", "-o", out))
    assert "read from ONNX: pytorch" in said
    images = torch.randn(3, 3, 24, 24)
    classes = [[1, 4], [0, 2], [3, 3]]
    session = onnxruntime.InferenceSession(out)
    scores, _, maps = session.run(None, {"image": images.numpy(), "class_ids": np.array(classes)})
    with torch.no_grad():
        np.testing.assert_allclose(scores, net(images), rtol=1e-5, atol=1e-6)
    for column, ids in enumerate(zip(*classes, strict=True)):
        np.testing.assert_allclose(
            maps[:, column], eager_gradcam(net, images, list(ids)), atol=1e-4
        )
    card = read_card(out)
    assert card.proof["original_relative_error"] <= 1e-5
    assert len(card.proof["original"]) == 64


def test_layers_and_names_as_viewers_show_them(file: Path, tmp_path: Path) -> None:
    assert "layer1.1" in done(camcore("layers", file))
    last = [node for node in onnx.load(file).graph.node if node.op_type == "Relu"][-1]
    name = last.output[0]
    built = build_model(str(file))
    assert built.aliases[name].startswith("layer1.1.relu")


def test_wrong_uses_are_told(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "explained.onnx"
    assert "its own weights" in failed(camcore("export", file, "--weights", "w.pt", "-o", out))
    assert "does not exist" in failed(camcore("export", "none.onnx", "-o", out))
    result = camcore("export", file, "--layer", "layer9", "-o", out)
    assert result.exit_code == 2
    assert "layer1" in result.stderr


def test_what_camcore_wrote_is_told(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    entry = model.metadata_props.add()
    entry.key, entry.value = "camcore", json.dumps({})
    onnx.save(model, tmp_path / "own.onnx")
    with pytest.raises(InputError, match="explains itself already"):
        read_onnx(tmp_path / "own.onnx")


def test_class_names_in_the_file(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", "{0: 'ant', 1: 'bee', 2: 'cat', 3: 'dog', 4: 'elk'}"
    onnx.save(model, tmp_path / "named.onnx")
    built = build_model(str(tmp_path / "named.onnx"))
    assert built.class_names == ("ant", "bee", "cat", "dog", "elk")
    assert built.image.crop == (24, 24)
