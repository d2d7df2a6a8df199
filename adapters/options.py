"""What the command line writes as text: options of a method, targets, outputs."""

from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from camcore.errors import InputError, unknown_name
from camcore.methods import METHODS, get_method


def parse_options(method: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Options written as `name=value`, with the values that the method's kernel takes.

    Raises:
        UnknownNameError: no such method, or it has no such option.
        InputError: no `=`, a value that the option cannot be, or an option given twice.

    >>> parse_options("gradcam++", ["eps=0"])
    {'eps': 0.0}
    """
    chosen = get_method(method)
    hints = get_type_hints(chosen.kernel)
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals:
            raise InputError(f"--option {pair!r}; expected name=value, as in --option eps=0")
        if not chosen.options:
            raise InputError(f"--option {pair}: {method} has no options")
        if name not in chosen.options:
            raise unknown_name(f"option of {method}", name, chosen.options)
        if name in found:
            raise InputError(f"--option {name} is given twice")
        # What the exporter takes itself, and the kernel does not, is of its default's type; None
        # stands for as many as there are, or as many as fit.
        default = chosen.options[name]
        hint = hints.get(name, int | None if default is None else type(default))
        found[name] = _parse(pair, text, list(_kinds(hint)))
    return found


def add_channels(method: str, options: dict[str, Any], channels: int | None) -> dict[str, Any]:
    """The options with `--channels`, a short form of `--option channels=`, if it was given.

    Raises:
        InputError: the method has no channels to choose from, or they are given twice.

    >>> add_channels("scorecam", {"chunk": 8}, 16)
    {'chunk': 8, 'channels': 16}
    """
    if channels is None:
        return options
    if "channels" not in get_method(method).options:
        others = [name for name, each in METHODS.items() if "channels" in each.options]
        raise InputError(
            f"--channels {channels}: {method} does not choose channels; {', '.join(others)} do"
        )
    if "channels" in options:
        raise InputError(
            f"--channels {channels} and --option channels={options['channels']} are the same "
            "option: give one of them"
        )
    return {**options, "channels": channels}


def _kinds(hint: Any) -> Iterator[Any]:
    """What may be given for an option of that type: types, and strings by themselves."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_args(hint):
        for part in get_args(hint):
            yield from _kinds(part)
    else:
        yield hint


def _parse(pair: str, text: str, kinds: Sequence[Any]) -> Any:
    for kind in kinds:
        if text == kind:
            return text
        if kind is NoneType and text.lower() == "none":
            return None
        if kind is bool and text.lower() in _TRUTH:
            return _TRUTH[text.lower()]
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    expected = " or ".join(_WORDS.get(kind, str(kind)) for kind in kinds)
    raise InputError(f"--option {pair}; expected {expected}")


_TRUTH = {"true": True, "false": False}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "none"}


def parse_output(text: str | None) -> str | int | None:
    """The name of a model's output, or its index.

    >>> parse_output("logits"), parse_output("-1")
    ('logits', -1)
    """
    try:
        return None if text is None else int(text)
    except ValueError:
        return text


def parse_detections(text: str | None) -> Any:
    """A reading of detections by name; or, by `module:name`, a function of the model's output and
    the image.

    Raises:
        UnknownNameError: no such module, or nothing of that name in it.
        InputError: the module cannot be imported, or what was found is no function.
    """
    if text is None or ":" not in text:
        return text
    from camcore.adapters.sources.functions import find_object

    found = find_object(text)
    if not callable(found):
        raise InputError(
            f"--detections {text} is {type(found).__name__}; expected a function from the model's "
            "output and the image to boxes, labels and scores"
        )
    return found


def parse_target(text: str | None) -> Any:
    """A target by name; or, by `module:name`, a function of the model's output, or a `Target`.

    Raises:
        UnknownNameError: no such module, or nothing of that name in it.
        InputError: the module cannot be imported, or what was found is neither.
    """
    if text is None or ":" not in text:
        return text
    from camcore.adapters.sources.functions import find_object
    from camcore.export.trace.targets import Target

    found = find_object(text)
    if not (callable(found) or isinstance(found, Target)):
        raise InputError(
            f"--target {text} is {type(found).__name__}; expected a function from the model's "
            "output to scores (B, N), or a camcore.export.Target"
        )
    return found
