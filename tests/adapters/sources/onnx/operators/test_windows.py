import numpy as np
import pytest

from tests.adapters.sources.onnx.oracle import check_against_onnxruntime

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 7, 9)).astype(np.float32)
WEIGHT = RNG.normal(size=(4, 3, 3, 2)).astype(np.float32)
BIAS = RNG.normal(size=4).astype(np.float32)
TURNED = RNG.normal(size=(3, 2, 3, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID", "dilations": [2, 1]},
    ],
)
def test_convolutions_pad_as_they_are_told(attributes: dict[str, object]) -> None:
    check_against_onnxruntime("Conv", 8, [X, WEIGHT, BIAS], **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1]},
        {"pads": [0, 1, 2, 1], "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"output_shape": [14, 17], "strides": [2, 2]},
    ],
)
def test_transposed_convolutions_cut_as_they_are_told(attributes: dict[str, object]) -> None:
    check_against_onnxruntime("ConvTranspose", 11, [X, TURNED], **attributes)


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [0, 0, 1, 1], "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
)
def test_pools(attributes: dict[str, object], ceil_mode: int) -> None:
    given = attributes | ({"ceil_mode": ceil_mode} if "auto_pad" not in attributes else {})
    check_against_onnxruntime("MaxPool", 12, [X], kernel_shape=[3, 3], **given)
    for counted in (0, 1):
        options = given | {"count_include_pad": counted}
        check_against_onnxruntime("AveragePool", 19, [X], kernel_shape=[3, 3], **options)


def test_pools_of_lengths() -> None:
    check_against_onnxruntime("GlobalLpPool", 8, [X], p=3)
    check_against_onnxruntime("LpPool", 11, [X], kernel_shape=[2, 3], strides=[2, 1], p=2)
