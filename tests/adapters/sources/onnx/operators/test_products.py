import numpy as np
import pytest

from tests.adapters.sources.onnx.oracle import check_against_onnxruntime

RNG = np.random.default_rng(0)


def some(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gemm(transposed: tuple[int, int], scale: float) -> None:
    a = some(4, 5) if transposed[0] else some(5, 4)
    b = some(6, 4) if transposed[1] else some(4, 6)
    options = {"transA": transposed[0], "transB": transposed[1], "alpha": scale, "beta": scale}
    check_against_onnxruntime("Gemm", 9, [a, b, some(6)], **options)
    check_against_onnxruntime("Gemm", 11, [a, b, some(5, 1)], **options)


def test_group_norm_of_both_versions() -> None:
    x = some(2, 6, 3, 3)
    check_against_onnxruntime(
        "GroupNormalization", 18, [x, some(3), some(3)], num_groups=3, epsilon=1e-3
    )
    check_against_onnxruntime("GroupNormalization", 21, [x, some(6), some(6)], num_groups=3)


def test_batch_norm_of_opset_8() -> None:
    values = [some(2, 3, 4, 4), some(3), some(3), some(3), np.abs(some(3)) + 0.1]
    check_against_onnxruntime("BatchNormalization", 8, values, epsilon=1e-2)
