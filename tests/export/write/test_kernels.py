"""Each kernel's model beside the kernel on NumPy arrays, at other sizes than it was traced at."""

import functools
import inspect
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray

import camcore
from camcore.export.write.kernels import KERNELS, kernel_model

# What each kernel is beside itself, where it takes the size from an image.
EAGER: dict[str, Any] = {
    "resize": lambda maps, image: camcore.resize(maps, image.shape[2:]),
    "postprocess": lambda maps, image: camcore.postprocess(maps, image.shape[2:]),
    "score_masks": lambda activations, image: camcore.score_masks(activations, image.shape[2:]),
    "component_boxes": lambda masks: camcore.component_boxes(masks, count=5),
}
QUICK = ["gradcam", "postprocess", "threshold_masks", "component_boxes", "box_scores"]

written = functools.cache(kernel_model)


def arrays(name: str, batch: int, height: int, width: int) -> list[NDArray[Any]]:
    rng = np.random.default_rng([batch, height])
    sizes = {"batch": batch, "channels": 9, "height": height, "width": width, "boxes": 4, "4": 4}
    sizes |= {"colours": 3, "image_height": 3 * height, "image_width": 2 * width + 1}
    kernel, found = KERNELS[name], []
    for axes, kind in zip(kernel.inputs, kernel.types, strict=False):
        shape = [sizes[axis] for axis in axes.split()]
        if kind == "b":
            found.append(rng.random(shape) < 0.4)
        elif kind == "i":
            corner = rng.integers(0, 3, (batch, 4, 2))
            found.append(np.concatenate([corner, corner + rng.integers(0, 4, corner.shape)], -1))
        elif not found:  # activations behind a ReLU, or maps in [0, 1]
            found.append(rng.random(shape).astype(np.float32))
        else:
            found.append(rng.normal(size=shape).astype(np.float32))
    return found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name)
        for name in KERNELS
    ],
)
def test_a_model_gives_what_its_kernel_gives(name: str) -> None:
    session = onnxruntime.InferenceSession(written(name).SerializeToString())
    for size in ((1, 12, 9), (4, 5, 31)):
        given = arrays(name, *size)
        ports = [port.name for port in session.get_inputs()]
        assert ports == list(KERNELS[name].names)
        (found,) = session.run(None, dict(zip(ports, given, strict=True)))
        expected = EAGER.get(name, KERNELS[name].function)(*given)
        assert found.dtype == expected.dtype
        largest = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * largest)
        assert np.any(found != 0)


@pytest.mark.parametrize("name", QUICK)
def test_a_model_says_what_it_is(name: str) -> None:
    model = written(name)
    kernel = KERNELS[name]
    assert model.doc_string == kernel.text
    assert len(model.doc_string) > 40
    assert ">>>" not in model.doc_string
    assert {opset.domain for opset in model.opset_import} == {""}
    for port, axes in zip(model.graph.input, kernel.inputs, strict=True):
        assert port.doc_string == f"({', '.join(axes.split())})"
        shape = [dim.dim_param or str(dim.dim_value) for dim in port.type.tensor_type.shape.dim]
        assert shape == ["3" if axis == "colours" else axis for axis in axes.split()]
    assert [port.name for port in model.graph.output] == [kernel.output]
    inner = {value for node in model.graph.node for value in node.output} - {kernel.output}
    assert all(value.startswith(f"{name}/") for value in inner)


def test_kernels_have_the_names_of_functions() -> None:
    """And their inputs those of the functions' arguments."""
    for name, kernel in KERNELS.items():
        assert callable(getattr(camcore, name)), name
        assert len(kernel.names) == len(kernel.inputs) <= len(kernel.types)
        assert kernel.text == (inspect.getdoc(kernel.function) or "").partition("\n>>>")[0].strip()


_PLAIN = """
<ir_version: 10, opset_import: ["" : 18]>
plain (float[batch, 3, H, W] image)
    => (float[batch, 6] scores, float[batch, 6, h, w] features, float[batch, 3, H, W] seen)
{
    features = Conv <strides: ints = [2, 2]> (image, weight)
    pooled = GlobalAveragePool (features)
    scores = Flatten (pooled)
    seen = Identity (image)
}
"""


def test_two_kernels_join_a_plain_model() -> None:
    """As docs/EVALUATE.md has it; beside the kernels on what the plain model gives."""
    plain = onnx.parser.parse_model(_PLAIN)
    weight = np.random.default_rng(0).normal(size=(6, 3, 3, 3)).astype(np.float32)
    plain.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    io_map = [("features", "activations")]
    mapped = onnx.compose.merge_models(plain, written("activation"), io_map=io_map)
    io_map = [("maps", "maps"), ("seen", "image")]
    joined = onnx.compose.merge_models(mapped, written("postprocess"), io_map=io_map)
    onnx.checker.check_model(joined, full_check=True)
    image = np.random.default_rng(1).normal(size=(2, 3, 20, 31)).astype(np.float32)
    names = ["scores", "saliency_map"]
    assert [port.name for port in joined.graph.output] == names
    scores, saliency_map = _run(joined, names, image)
    expected, activations = _run(plain, ["scores", "features"], image)
    np.testing.assert_array_equal(scores, expected)
    raw = camcore.activation(activations)
    own = camcore.postprocess(raw, (20, 31))
    np.testing.assert_allclose(saliency_map, own, atol=1e-5)
    assert own.max() == pytest.approx(1, abs=1e-4)


def _run(model: onnx.ModelProto, names: list[str], image: NDArray[Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found: list[Any] = session.run(names, {"image": image})
    return found
