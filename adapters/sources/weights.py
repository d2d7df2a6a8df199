"""Weights in a file: read without running anything that is stored in it, and put into a model.

A file may be the index of several, as transformers writes it (`model.safetensors.index.json`).
Where it is a checkpoint with more than one set of weights, `FILE:KEY` says which.
"""

import json
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

# The preprocessing that is taken from a model's own weights where a file's are loaded.
OF_DEFAULT = ("mean", "std", "resize", "crop", "colour")

# The end of the name of a file that tells which files hold the tensors.
_INDEX = ".index.json"

State = dict[str, torch.Tensor]


def is_weights_file(weights: str) -> bool:
    """Whether these weights are a file's, by its suffix or because it is there.

    >>> is_weights_file("mine.pt"), is_weights_file("last.ckpt:ema"), is_weights_file("NONE")
    (True, True, False)
    """
    return _is_file(split_key(weights)[0])


def _is_file(path: Path) -> bool:
    known = path.suffix.lower() in WEIGHT_SUFFIXES or path.name.endswith(_INDEX)
    return known or path.is_file()


def split_key(weights: str) -> tuple[Path, str | None]:
    """The file of weights, and the key of the checkpoint in it that was asked for.

    >>> split_key("last.ckpt:ema")[1]
    'ema'
    """
    name, _, key = weights.rpartition(":")
    if not name or Path(weights).is_file() or not _is_file(Path(name)):
        return Path(weights), None
    return Path(name), key


def read_state_dict(weights: str | Path) -> State:
    """The tensors of a weights file, or of `FILE:KEY`, by name; nothing in it is executed.

    Raises:
        FileError: the file is missing, unreadable, or holds more than tensors.
        InputError: it holds several sets of weights, and no key says which.
    """
    path, key = split_key(str(weights))
    if path.name.endswith(_INDEX):
        return _read_shards(path)
    loaded = _load(path)
    inside = _unpacked(loaded, path) if key is None else _of_key(loaded, key, path)
    if not _is_state_dict(inside):
        raise FileError(
            f"{path} holds {_contents(loaded)}; expected a state dict (names and tensors), or one "
            f"under {', '.join(_STATE_DICT_KEYS[:-1])} or {_STATE_DICT_KEYS[-1]}"
        )
    return dict(cast(State, inside))


def _read_shards(index: Path) -> State:
    """The tensors of all files that an index names, which lie beside it."""
    if not index.is_file():
        raise missing(index)
    try:
        files = {index.parent / Path(name).name for name in _weight_map(index).values()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise FileError(f"{index} is no index of weights: {error}") from error
    state = {key: value for path in sorted(files) for key, value in read_state_dict(path).items()}
    absent = _some("of it missing from its files", _weight_map(index).keys() - state.keys())
    if absent:
        raise FileError(f"{index}: {absent}")
    return state


def _weight_map(index: Path) -> dict[str, str]:
    return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])


def _load(path: Path) -> object:
    if not path.is_file():
        raise missing(path)
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        return cast(object, torch.load(path, map_location="cpu", weights_only=True))
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


def _unpacked(loaded: object, path: Path) -> object:
    """What stands under the key of a checkpoint for its state dict, if there is one.

    Raises:
        InputError: there are several.
    """
    while isinstance(loaded, Mapping) and not _is_state_dict(loaded):
        keys = [key for key, value in loaded.items() if _may_be_weights(key, value)]
        if len(keys) > 1:
            raise InputError(
                f"{path} holds several sets of weights: {', '.join(keys)}. Say which, as in "
                f"--weights {path}:{keys[-1]}"
            )
        if not keys:
            break
        loaded = loaded[keys[0]]
    return loaded


def _may_be_weights(key: object, value: object) -> bool:
    """Whether it is called as training scripts call a state dict; an average is, too."""
    called = isinstance(key, str) and (key in _STATE_DICT_KEYS or "ema" in key.lower().split("_"))
    return called and isinstance(value, Mapping) and bool(value)


def _of_key(loaded: object, key: str, path: Path) -> object:
    if not isinstance(loaded, Mapping) or key not in loaded:
        raise FileError(f"{path} has nothing under {key!r}: it holds {_contents(loaded)}")
    return _unpacked(loaded[key], path)


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


def last_rows(state: State, model: nn.Module) -> int | None:
    """The number of classes, by a state dict's tensor for the last layer of the model."""
    matrices = [key for key, value in model.state_dict().items() if value.ndim >= 2]
    last = state.get(matrices[-1]) if matrices else None
    return None if last is None else last.shape[0]


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
