"""Errors can be caught by what they are, and say what was meant."""

import pytest

from camcore import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.UnknownNameError, LookupError),
        (errors.FileError, OSError),
        (errors.ExportError, Exception),
        (errors.ProofError, Exception),
    ],
)
def test_each_is_a_camcore_error_and_a_builtin_one(
    error: type[Exception], builtin: type[Exception]
) -> None:
    for caught in (errors.CamcoreError, builtin):
        with pytest.raises(caught, match="the message"):
            raise error("the message")


def test_the_nearest_names_come_first() -> None:
    known = ["layer1", "layer2", "layer3.0.conv1", "fc"]
    message = str(errors.unknown_name("layer", "layer3.0.conv2", known, "See camcore layers."))
    assert message.startswith("unknown layer 'layer3.0.conv2'; nearest: layer3.0.conv1")
    assert message.endswith(". See camcore layers.")
    assert "fc" not in message


def test_a_name_like_no_other_lists_the_first() -> None:
    message = str(errors.unknown_name("method", "qqq", [f"m{n}" for n in range(9)]))
    assert message == "unknown method 'qqq'; nearest: m0, m1, m2, m3, m4"
