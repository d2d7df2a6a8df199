"""Fields: a dataclass from the values of JSON, each checked against the type of its field."""

from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_fields(kind: type[T], fields: dict[str, Any]) -> T:
    """A dataclass of that kind. JSON has no tuples, the dataclass no lists: the one becomes the
    other.

    Raises:
        TypeError: a field is missing or unknown, or its value is of another type.

    >>> from camcore.card import ImageSpec
    >>> from_fields(ImageSpec, {"height": 8, "width": None, "mean": [0, 0.5, 1]}).mean
    (0, 0.5, 1)
    """
    values = {name: _as_tuple(value) for name, value in fields.items()}
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            raise TypeError(f"{name} is {_shown(value)}, expected {_named(hints[name])}")
    return kind(**values)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type as annotations write it; true and false are no numbers.

    >>> fits((1, 2.5), tuple[float, ...]), fits(True, int), fits(None, int | None)
    (True, False, True)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and _all_fit(value, arguments)
    if origin is dict:
        key, of = arguments
        return isinstance(value, dict) and all(
            fits(name, key) and fits(each, of) for name, each in value.items()
        )
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _all_fit(values: tuple[Any, ...], hints: tuple[Any, ...]) -> bool:
    if hints[-1] is Ellipsis:
        return all(fits(value, hints[0]) for value in values)
    return len(values) == len(hints) and all(map(fits, values, hints))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
