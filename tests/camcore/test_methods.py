"""The registry."""

import inspect
import re

import pytest

import camcore


def test_the_methods_by_name() -> None:
    assert list(camcore.METHODS) == [
        "cam",
        "gradcam",
        "layercam",
        "hirescam",
        "xgradcam",
        "gradcam++",
        "gradcam-elementwise",
    ]
    assert all(name == method.name for name, method in camcore.METHODS.items())


@pytest.mark.parametrize("method", camcore.METHODS.values(), ids=lambda method: method.name)
def test_a_row_fits_its_kernel(method: camcore.Method) -> None:
    parameters = inspect.signature(method.kernel).parameters
    assert list(parameters)[:2] == ["activations", method.needs]
    assert list(parameters)[2:] == ["spatial_ndim", *method.options]
    assert re.fullmatch(r"https://\S+", method.paper)
    assert method.summary
    assert method.passes
    assert method.paper in method.kernel.__doc__


def test_options_are_the_kernels_own() -> None:
    assert camcore.get_method("gradcam").options == {}
    assert camcore.get_method("gradcam++").options == {"eps": 1e-6}
    assert camcore.get_method("xgradcam").options == {"eps": 1e-7}


def test_only_the_original_cam_keeps_negative_values() -> None:
    assert [name for name, method in camcore.METHODS.items() if not method.relu] == ["cam"]


def test_an_unknown_method_lists_the_nearest() -> None:
    with pytest.raises(
        camcore.UnknownNameError, match="unknown method 'gradcan'; nearest: gradcam"
    ):
        camcore.get_method("gradcan")
