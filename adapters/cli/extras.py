"""What a command needs that is not installed, by the extra that brings it."""

from collections.abc import Iterator
from contextlib import contextmanager

from camcore.errors import InputError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turns a missing package into the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("camcore"):
            raise
        raise InputError(
            f"this command needs {error.name}, which is not installed: pip install "
            f"'camcore[{extra}]'"
        ) from error
