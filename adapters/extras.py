"""What a command needs that is not installed, by the extra that brings it."""

from collections.abc import Iterator
from contextlib import contextmanager

from camcore.errors import InputError


@contextmanager
def needs(extra: str, what: str = "this command") -> Iterator[None]:
    """Turns a package that is missing for something into the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("camcore"):
            raise
        raise InputError(
            f"{what} needs {error.name}, which is not installed: pip install 'camcore[{extra}]'"
        ) from error
