import numpy as np
import pytest

from tests.adapters.sources.onnx.oracle import check_against_onnxruntime

X = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
SCALES = np.array([1, 1, 2, 1.5], np.float32)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample_of_old_versions(mode: str) -> None:
    check_against_onnxruntime("Upsample", 8, [X], scales=[1.0, 1.0, 2.0, 2.0], mode=mode)
    check_against_onnxruntime("Upsample", 9, [X, SCALES], mode=mode)
    check_against_onnxruntime("Resize", 10, [X, SCALES], mode=mode)


@pytest.mark.parametrize("place", ["half_pixel", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scales", [SCALES, np.array([1, 1, 0.7, 3], np.float32)])
def test_every_rule(mode: str, place: str, scales: np.ndarray) -> None:
    options = {"mode": mode, "coordinate_transformation_mode": place}
    if place != "align_corners":  # of which onnxruntime rounds the scale first, and onnx does not
        check_against_onnxruntime("Resize", 13, [X, None, scales], **options)
    sizes = np.array([2, 3, 8, 3])
    check_against_onnxruntime("Resize", 13, [X, None, None, sizes], **options)


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("place", ["half_pixel", "asymmetric"])
def test_nearest(rounding: str, place: str) -> None:
    options = {"nearest_mode": rounding, "coordinate_transformation_mode": place}
    for scales in (SCALES, np.array([1, 1, 2, 3], np.float32)):
        check_against_onnxruntime("Resize", 13, [X, None, scales], mode="nearest", **options)
