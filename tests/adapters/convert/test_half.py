"""What float16 does not hold stays in float32, found by running."""

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray

from camcore.adapters.convert import half
from camcore.adapters.convert.half import to_half

# Through a value of another size and back again.
_DETOUR = """
<ir_version: 10, opset_import: ["" : 18]>
detour (float[B, 4] image) => (float[B, 4] result)
{
    first = MatMul (image, weight)
    far = Mul (first, away)
    farther = Relu (far)
    result = Mul (farther, back)
}
"""


def detour(away: float) -> onnx.ModelProto:
    model = onnx.parser.parse_model(_DETOUR)
    weight = np.random.default_rng(0).uniform(0.5, 1, (4, 4)).astype(np.float32)
    values = {"weight": weight, "away": np.float32(away), "back": np.float32(1 / away)}
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def run(model: onnx.ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    # As the graph says, without any fusion of what this is about.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"image": image})
    found: NDArray[np.float32] = result
    return found


IMAGE = np.random.default_rng(1).uniform(0.5, 1, (3, 4)).astype(np.float32)


@pytest.mark.parametrize(("away", "kept"), [(1e-8, 3), (1e5, 3), (2.0, 0), (0.5, 0)])
def test_values_out_of_range_stay_exact(away: float, kept: int) -> None:
    model = detour(away)
    expected = run(model, IMAGE)
    converted, count = to_half(model, [{"image": IMAGE}])
    assert count == kept
    found = run(converted, IMAGE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=4e-3)
    (weight,) = (each for each in converted.graph.initializer if each.name == "weight")
    assert weight.data_type == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("away", [1e-8, 1e5])
def test_without_looking_at_ranges_they_are_lost(
    away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "_ranges", lambda *_: {})
    converted, _ = to_half(detour(away), [{"image": IMAGE}])
    assert not np.allclose(run(converted, IMAGE), run(detour(away), IMAGE), rtol=0.1)


@pytest.mark.parametrize("away", [1e-8, 1e5])
def test_without_joined_casts_they_are_lost(away: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "_join_casts", lambda graph: None)
    converted, _ = to_half(detour(away), [{"image": IMAGE}])
    assert not np.allclose(run(converted, IMAGE), run(detour(away), IMAGE), rtol=0.1)


def test_zeros_and_large_weights() -> None:
    assert half._outside({"zero": 0.0, "small": 1e-5, "large": 1e5, "one": 1.0}) == {
        "small",
        "large",
    }
    weights: list[Any] = [np.float32([1e6]), np.float32([1e-6]), np.float32([])]
    graph = onnx.GraphProto()
    for number, weight in enumerate(weights):
        graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{number}"))
    assert half._weights_outside(graph) == {"w0"}
