"""Functions of one's own by name, `module:function`, in the working folder or installed."""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import cast

from torch import nn

from camcore.adapters.sources.built_model import BuiltModel
from camcore.adapters.sources.stated import channels_of, stated
from camcore.adapters.sources.weights import is_weights_file, load_state_dict, read_state_dict
from camcore.card import assume_image
from camcore.errors import InputError, UnknownNameError, unknown_name


def names() -> Sequence[str]:
    return []


def takes(name: str) -> bool:
    return ":" in name


def build(name: str, weights: str) -> BuiltModel:
    """What the function returns, as it made it with DEFAULT and NONE, or with a file's weights."""
    with _working_folder_importable():
        function = _find_function(name)
        try:
            model = function()
        except Exception as error:  # somebody else's function
            raise InputError(f"{name}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{name}() returned {type(model).__name__}; expected a torch.nn.Module")
    if is_weights_file(weights):
        load_state_dict(model, read_state_dict(weights), weights)
    elif weights.upper() not in ("DEFAULT", "NONE"):
        raise InputError(f"{name}: weights {weights!r} are no file; expected DEFAULT, NONE or one")
    return described(model, type(model).__name__)


def described(model: nn.Module, name: str, size: tuple[int, int] | None = None) -> BuiltModel:
    """The model with what it states of its images and classes, and what is assumed of the rest.

    It is taken to want images of that size (height, width), where it does not state another.
    """
    own = stated(model)
    fields = {"channels": channels_of(model)} | own.fields
    return BuiltModel(
        model, name, own.class_names, assume_image(own.size or size or (224, 224), **fields)
    )


def find_object(name: str) -> object:
    """What `module:name` is, in the working folder or installed.

    Raises:
        UnknownNameError: no such module, or nothing of that name in it.
        InputError: importing the module fails.
    """
    module_name, _, own_name = name.partition(":")
    with _working_folder_importable():
        module = _import(name, module_name)
    if not hasattr(module, own_name):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise unknown_name(f"name in {module_name}", own_name, known)
    return getattr(module, own_name)


def _find_function(name: str) -> Callable[[], object]:
    module_name, _, function_name = name.partition(":")
    module = _import(name, module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise unknown_name(f"function of {module_name}", function_name, functions)
    return cast(Callable[[], object], function)


def _import(name: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # somebody else's module
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UnknownNameError(
                f"{name}: no module {module_name!r} in the working folder or installed"
            ) from error
        raise InputError(f"{name}: importing {module_name} failed: {error}") from error


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """A console script leaves out the working folder, where a user's module is likely to be."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
