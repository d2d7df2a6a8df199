import pytest

from camcore.adapters.sources.onnx.operators.table import OPERATORS, wants_number
from tests.adapters.sources.onnx.oracle import SLOW, check_against_onnx

# What some of their tests ask for and is refused, as it is by name.
REFUSED = {
    "AveragePool": "dilations",
    "BatchNormalization": "training mode",
    "CumSum": "exclusively or backwards",
    "Dropout": "training mode",
    "GatherND": "batch_dims",
    "LpPool": "gaps between",
    "MaxPool": "places of the maxima",
    "Resize": "antialias|tf_crop_and_resize",
    "ScatterElements": "reduction",
    "ScatterND": "reduction",
}
# Of some onnx has no test, of others none in types that NumPy knows: see test_elementwise and
# test_windows.
UNTESTED = {"Cast", "CastLike", "GlobalLpPool"}


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - set(SLOW.values()) - UNTESTED))
def test_every_operator_is_as_onnx_says(operator: str) -> None:
    passed, refused = check_against_onnx(operator)
    assert passed
    for message in refused:
        assert operator in REFUSED, message
        assert any(part in message for part in REFUSED[operator].split("|")), message


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(SLOW.values()))
def test_pools_are_as_onnx_says(operator: str) -> None:
    passed, refused = check_against_onnx(operator, slow=True)
    assert passed >= 5
    assert all(REFUSED[operator] in message for message in refused), refused


def test_which_inputs_are_numbers() -> None:
    assert wants_number("Slice", 4)
    assert wants_number("ConstantOfShape", 0)
    assert wants_number("OneHot", 1)
    assert not wants_number("OneHot", 2)
    assert not wants_number("Conv", 1)
