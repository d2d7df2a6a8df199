"""The exceptions of camcore. Each message says what was given, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class CamcoreError(Exception):
    """Base of every error that camcore raises on purpose."""


class InputError(CamcoreError, ValueError):
    """An argument, an array or an image is not what the function can work with."""


class UnknownNameError(CamcoreError, LookupError):
    """A method, layer, model or class name that does not exist; the message lists the nearest
    ones.
    """


class ExportError(CamcoreError):
    """The model cannot be turned into an explainable graph; the message names the layer or
    operator.
    """


class ProofError(CamcoreError):
    """A written file did not give what eager PyTorch gives; the message says by how much and
    where.
    """


class FileError(CamcoreError, OSError):
    """A file cannot be read or written, is damaged, or was not written by camcore."""


def unknown_name(kind: str, given: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """An `UnknownNameError` that offers the names nearest to the given one.

    >>> str(unknown_name("method", "gradcan", ["gradcam", "layercam"]))
    "unknown method 'gradcan'; nearest: gradcam"
    """
    names = sorted(known)
    nearest = get_close_matches(given, names, n=5, cutoff=0.5) or names[:5]
    message = f"unknown {kind} {given!r}; nearest: {', '.join(nearest)}"
    return UnknownNameError(f"{message}. {hint}" if hint else message)
