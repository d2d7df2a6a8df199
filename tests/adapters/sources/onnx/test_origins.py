"""Files as other libraries write them, made here: from the command line to maps, the whole road."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.helper import make_node
from torch import Tensor
from torch.nn import functional as F

from tests.adapters.cli.calls import camcore, done
from tests.adapters.sources.onnx.oracle import as_model

SIZE = 20
RANDOM = np.random.default_rng(0)
W1 = RANDOM.normal(size=(6, 3, 3, 3)).astype(np.float32)
B1 = RANDOM.normal(size=6).astype(np.float32)
SCALE, SHIFT, MEAN = (RANDOM.uniform(0.5, 1.5, size=6).astype(np.float32) for _ in range(3))
W2 = RANDOM.normal(size=(6, 4)).astype(np.float32)
B2 = RANDOM.normal(size=4).astype(np.float32)


def tf2onnx_like() -> tuple[Any, Any]:
    """uint8 (N, H, W, C), scaled inside and put into order; a softmax at the end."""
    nodes = [
        make_node("Cast", ["x"], ["float"], to=1),
        make_node("Mul", ["float", "scale"], ["scaled"]),
        make_node("Sub", ["scaled", "one"], ["centred"]),
        make_node("Transpose", ["centred"], ["t"], perm=[0, 3, 1, 2]),
        make_node("Conv", ["t", "w1", "b1"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        make_node("Relu", ["c"], ["r"], name="model/relu"),
        make_node("Transpose", ["r"], ["back"], perm=[0, 2, 3, 1]),
        make_node("ReduceMean", ["back"], ["m"], axes=[1, 2], keepdims=0),
        make_node("MatMul", ["m", "w2"], ["mm"]),
        make_node("Add", ["mm", "b2"], ["logits"]),
        make_node("Softmax", ["logits"], ["y"], axis=1),
    ]
    weights = {"scale": np.float32(1 / 127.5), "one": np.float32(1)}
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    return _model(nodes, 9, image, weights, ["n", SIZE, SIZE, 3])


def paddle_like() -> tuple[Any, Any]:
    """Opset 11: weights as Constant nodes, a batch norm, shapes of what Shape tells."""
    weights = {"w1": W1, "b1": B1, "s": SCALE, "h": SHIFT, "m": MEAN, "v": SCALE**2}
    nodes = [
        make_node("Constant", [], [f"p_{name}"], value=onnx.numpy_helper.from_array(value))
        for name, value in {**weights, "w2": W2, "b2": B2}.items()
    ]
    nodes += [make_node("Identity", [f"p_{name}"], [f"i_{name}"]) for name in weights]
    nodes += [
        make_node("Conv", ["x", "i_w1"], ["c"], pads=[1] * 4, strides=[2, 2]),
        make_node("BatchNormalization", ["c", "i_s", "i_h", "i_m", "i_v"], ["bn"], epsilon=1e-5),
        make_node("Clip", ["bn", "zero", "six"], ["r"], name="Clip_0"),
        make_node("GlobalAveragePool", ["r"], ["g"]),
        make_node("Shape", ["g"], ["shape"]),
        make_node("Slice", ["shape", "start", "end", "axis"], ["first"]),
        make_node("Concat", ["first", "minus"], ["to"], axis=0),
        make_node("Reshape", ["g", "to"], ["f"]),
        make_node("MatMul", ["f", "p_w2"], ["mm"]),
        make_node("Add", ["mm", "p_b2"], ["logits"]),
        make_node("Softmax", ["logits"], ["s"], axis=1),
        make_node("Identity", ["s"], ["y"]),
    ]
    known = {"zero": np.float32(0), "six": np.float32(6)}
    known |= {"start": np.array([0]), "end": np.array([1]), "axis": np.array([0])}
    return _model(nodes, 11, _image(), known | {"minus": np.array([-1])}, [-1, 3, None, None])


def old_and_for_one_image() -> tuple[Any, Any]:
    """Opset 8, a batch of one written into a Reshape, initializers that are inputs as well."""
    nodes = [
        make_node("Conv", ["x", "w1", "b1"], ["c"], pads=[1] * 4, strides=[2, 2]),
        make_node("Relu", ["c"], ["r"]),
        make_node("AveragePool", ["r"], ["g"], kernel_shape=[SIZE // 2] * 2),
        make_node("Reshape", ["g", "to"], ["f"]),
        make_node("Gemm", ["f", "w2", "b2"], ["y"]),
    ]
    model, image = _model(nodes, 8, _image(), {"to": np.array([1, 6])}, [1, 3, SIZE, SIZE])
    for weight in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
        )
    return model, image


def half_precision() -> tuple[Any, Any]:
    nodes = [
        make_node("Conv", ["x", "w1", "b1"], ["c"], pads=[1] * 4, strides=[2, 2]),
        make_node("Relu", ["c"], ["r"]),
        make_node("GlobalAveragePool", ["r"], ["g"]),
        make_node("Flatten", ["g"], ["f"]),
        make_node("Gemm", ["f", "w2", "b2"], ["y"]),
    ]
    model, image = _model(nodes, 17, _image().astype(np.float16), {}, ["n", 3, SIZE, SIZE])
    for weight in model.graph.initializer:
        half = onnx.numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(onnx.numpy_helper.from_array(half, weight.name))
    for output in model.graph.output:
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model, image


def _image() -> Any:
    return np.zeros((1, 3, SIZE, SIZE), np.float32)


def _model(nodes: Any, opset: int, image: Any, more: dict[str, Any], sizes: Any) -> tuple[Any, Any]:
    used = {name for node in nodes for name in node.input}
    own = {"w1": W1, "b1": B1, "w2": W2, "b2": B2, **more}
    weights = {name: np.asarray(value) for name, value in own.items() if name in used}
    sizes = [None if size == -1 else size for size in sizes]
    return as_model(nodes, opset, {"x": image}, ["y"], weights, x=sizes), image


def features_of(kind: str, images: Tensor) -> Tensor:
    """The values of the layer that is explained, (B, 6, H, W)."""
    w1, b1 = torch.from_numpy(W1), torch.from_numpy(B1)
    if kind == "tf2onnx_like":  # SAME_UPPER puts the odd point behind
        return F.conv2d(F.pad(images / 127.5 - 1, (0, 1, 0, 1)), w1, b1, stride=2).relu()
    if kind == "paddle_like":
        plain = F.conv2d(images, w1, padding=1, stride=2)
        scale, shift, mean = map(torch.from_numpy, (SCALE, SHIFT, MEAN))
        return F.batch_norm(plain, mean, scale**2, scale, shift, eps=1e-5).clamp(0, 6)
    return F.conv2d(images, w1, b1, padding=1, stride=2).relu()


def gradcam(features: Tensor, index: int) -> np.ndarray:
    """Grad-CAM by autograd, resized by OpenCV."""
    features = features.detach().requires_grad_()
    scores = features.mean((2, 3)) @ torch.from_numpy(W2) + torch.from_numpy(B2)
    (gradients,) = torch.autograd.grad(scores[:, index].sum(), features)
    maps = (gradients.mean((2, 3), keepdim=True) * features).sum(1).relu().detach().numpy()
    return np.stack([unit(cv2.resize(unit(each), (SIZE, SIZE))) for each in maps])


def unit(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (np.ptp(x) + 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tf2onnx_like, paddle_like, old_and_for_one_image, half_precision])
def test_from_a_file_to_maps(make: Any, tmp_path: Path) -> None:
    model, image = make()
    path, out = tmp_path / "model.onnx", tmp_path / "explained.onnx"
    onnx.save(model, path)
    layer = {"tf2onnx_like": ["--layer", "model/relu"], "paddle_like": ["--layer", "Clip_0"]}
    size = ["--size", str(SIZE), "--fixed-size"]
    done(camcore("export", path, *layer.get(make.__name__, []), *size, "-o", out))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, SIZE, SIZE, generator=generator)
    if image.dtype == np.uint8:
        images = (images * 60 + 120).clamp(0, 255).round()
    session = onnxruntime.InferenceSession(out)
    ids = np.array([[0, 3]])
    scores, *_, maps = session.run(None, {"image": images.numpy(), "class_ids": ids})
    original = onnxruntime.InferenceSession(path)
    given = images.permute(0, 2, 3, 1) if image.shape[-1] == 3 else images
    half = image.dtype == np.float16
    for n, one in enumerate(given.numpy().astype(image.dtype)):
        (expected,) = original.run(None, {"x": one[None]})
        np.testing.assert_allclose(scores[n : n + 1], expected, atol=2e-2 if half else 1e-5)
    for k, index in enumerate((0, 3)):
        expected = gradcam(features_of(make.__name__, images), index)
        np.testing.assert_allclose(maps[:, k], expected, atol=2e-2 if half else 1e-4)
