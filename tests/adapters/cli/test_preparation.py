from typing import Any

import pytest

from camcore.adapters.cli.preparation import preparation_fields
from camcore.errors import InputError

NOTHING: dict[str, Any] = dict.fromkeys(
    ["mean", "std", "resize", "crop", "interpolation", "colour"]
)


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({}, {}),
        ({"mean": "0.5"}, {"mean": (0.5, 0.5, 0.5)}),
        ({"mean": "0.1, 0.2,0.3"}, {"mean": (0.1, 0.2, 0.3)}),
        ({"std": "2", "colour": "grey"}, {"std": (2.0,), "channels": 1}),
        ({"resize": "256", "crop": "224"}, {"resize": 256, "crop": (224, 224)}),
        ({"resize": "96X128", "crop": "None"}, {"resize": (96, 128), "crop": None}),
        ({"colour": "bgr", "interpolation": "box"}, {"colour": "BGR", "interpolation": "box"}),
    ],
)
def test_fields(given: dict[str, str], fields: dict[str, Any]) -> None:
    assert preparation_fields(**NOTHING | given) == fields


@pytest.mark.parametrize("name", ["resize", "crop"])
@pytest.mark.parametrize("text", ["", "0", "-1", "2.5", "1x2x3", "x", "96x"])
def test_what_are_no_sizes(name: str, text: str) -> None:
    with pytest.raises(InputError, match=f"--{name} '{text}'; expected 224, or height x width"):
        preparation_fields(**NOTHING | {name: text})
