"""Weights in a file: read without running anything that is stored in it, and put into a model."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from camcore.adapters.files import missing
from camcore.errors import FileError, InputError

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")

# Where training scripts put the state dict in a checkpoint; the first that is there counts.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "state", "ema")

# What training puts before every name: wrappers' and modules' own names for the model in them, as
# DataParallel's, torch.compile's, and those that Lightning modules have.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")

State = dict[str, torch.Tensor]


def is_weights_file(weights: str) -> bool:
    """Whether these weights are a file's, by its suffix or because it is there.

    >>> is_weights_file("mine.pt"), is_weights_file("IMAGENET1K_V2")
    (True, False)
    """
    return Path(weights).suffix.lower() in WEIGHT_SUFFIXES or Path(weights).is_file()


def read_state_dict(path: Path) -> State:
    """The tensors of a weights file, by name; nothing in the file is executed.

    Raises:
        FileError: the file is missing, unreadable, or holds more than tensors.
    """
    if not path.is_file():
        raise missing(path)
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise FileError(f"{path} is not a safetensors file, or was cut off: {error}") from error
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path} is no state dict: it holds Python objects, which camcore does not unpickle "
            "because that can run any code, or it is damaged. Save the tensors alone: "
            "torch.save(model.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise FileError(f"{path} is not a file that torch.load reads: {error}") from error
    inside = _unpacked(loaded)
    if not _is_state_dict(inside):
        raise FileError(
            f"{path} holds {_contents(loaded)}; expected a state dict (names and tensors), or one "
            f"under {', '.join(_STATE_DICT_KEYS[:-1])} or {_STATE_DICT_KEYS[-1]}"
        )
    return dict(cast(State, inside))


def _unpacked(loaded: object) -> object:
    """What stands under the keys of a checkpoint for its state dict, if there are such."""
    while isinstance(loaded, Mapping):
        key = next((k for k in _STATE_DICT_KEYS if isinstance(loaded.get(k), Mapping)), None)
        if key is None:
            break
        loaded = loaded[key]
    return loaded


def _contents(loaded: object) -> str:
    if not isinstance(loaded, Mapping):
        return type(loaded).__name__
    kinds = [f"{key!r} ({type(value).__name__})" for key, value in loaded.items()]
    more = f" and {len(kinds) - 6} more" if len(kinds) > 6 else ""
    return f"a {type(loaded).__name__} of {', '.join(kinds[:6]) or 'nothing'}{more}"


def fitting(state: State, names: Iterable[str]) -> State:
    """The state dict without what training put before every name, where the model has no such.

    A prefix that all its names have and none of the model's is one: with it, no name would fit.

    >>> list(fitting({"module.model.fc.weight": torch.zeros(1)}, ["fc.weight"]))
    ['fc.weight']
    """
    names = list(names)
    while True:
        found = [
            prefix
            for prefix in _PREFIXES
            if all(key.startswith(prefix) for key in state)
            and not any(name.startswith(prefix) for name in names)
        ]
        if not state or not found:
            return state
        state = {key.removeprefix(found[0]): value for key, value in state.items()}


def load_state_dict(model: nn.Module, state: State, source: str) -> None:
    """Copy tensors into a model; every name and shape must fit, but for a prefix of all names.

    Raises:
        InputError: names are missing or left over, or shapes differ; the message lists some.
    """
    own = model.state_dict()
    state = fitting(state, own)
    problems = [
        _some("missing", own.keys() - state.keys()),
        _some("unexpected", state.keys() - own.keys()),
        _some(
            "of another shape",
            (
                f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
                for key in own.keys() & state.keys()
                if own[key].shape != state[key].shape
            ),
        ),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise InputError(f"{source} does not fit {type(model).__name__}: {found}")
    model.load_state_dict(state)


def check_finite(model: nn.Module, name: str) -> None:
    """Raises an `InputError` where a parameter or buffer holds NaN or infinity."""
    for kind, tensors in (
        ("parameter", model.named_parameters()),
        ("buffer", model.named_buffers()),
    ):
        for own_name, tensor in tensors:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    f"{kind} {own_name} of {name} holds NaN or infinity; the weights are damaged"
                )


def _is_state_dict(loaded: object) -> bool:
    return (
        isinstance(loaded, Mapping)
        and len(loaded) > 0
        and all(isinstance(value, torch.Tensor) for value in loaded.values())
    )


def _some(what: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return f"{what}: {', '.join(listed[:4])}{more}" if listed else ""
