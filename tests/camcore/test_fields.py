"""A dataclass from JSON's values, each of its type."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from camcore._fields import fits, from_fields


@dataclass(frozen=True)
class Kind:
    count: int
    share: float = 0.5
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    mode: Literal["a", "b"] = "a"
    more: dict[str, Any] | None = None


def test_lists_become_tuples() -> None:
    kind = from_fields(Kind, {"count": 1, "names": ["x"], "size": [2, 3], "more": {"y": [4]}})
    assert kind == Kind(1, names=("x",), size=(2, 3), more={"y": [4]})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 1.0}, "count is 1.0, expected int"),
        ({"count": True}, "count is True, expected int"),
        ({"count": 1, "share": "half"}, "share is 'half', expected float"),
        ({"count": 1, "names": ["x", 2]}, "names is"),
        ({"count": 1, "size": [1]}, "size is"),
        ({"count": 1, "mode": "c"}, "mode is 'c'"),
        ({"count": 1, "more": []}, "more is"),
        ({"count": 1, "other": 2}, "unexpected keyword argument 'other'"),
        ({}, "missing 1 required positional argument: 'count'"),
        ({"count": "9" * 1000}, r"count is '9{59}\.\.\., expected int"),
    ],
)
def test_wrong_types(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        from_fields(Kind, fields)


def test_whole_numbers_are_fractions_too() -> None:
    assert from_fields(Kind, {"count": 1, "share": 1}).share == 1
    assert not fits(True, float)


def test_dictionaries_of_one_kind_of_value() -> None:
    assert fits({"a": "b"}, dict[str, str])
    assert not fits({"a": 1}, dict[str, str])
