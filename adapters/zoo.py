"""Models by name: torchvision's builders, functions of one's own, and the demo classifier `scenes`.

Weights come from torchvision, or from a file that is read without running anything that is stored
in it.
"""

import importlib
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from camcore.card import ImageSpec
from camcore.errors import CamcoreError, FileError, InputError, UnknownNameError, unknown_name

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
SCENES = "scenes"

# Where training scripts put the state dict in a checkpoint.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")

_ON_A_BACKBONE = [
    *models.list_models(models.segmentation),
    *models.list_models(models.detection),
]

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class BuiltModel:
    """A model in eval mode, and what is known about its classes and its input."""

    model: nn.Module
    name: str
    class_names: tuple[str, ...] | None
    image: ImageSpec


def build_model(name: str, weights: str = "DEFAULT") -> BuiltModel:
    """The model of that name with these weights.

    `name` is a torchvision builder, `module:function` (a function that returns an `nn.Module`), or
    `scenes`, the demo classifier. `weights` is DEFAULT, NONE, the name of one of the builder's
    weights (IMAGENET1K_V2), or a state dict in a file (.safetensors, .pt, .pth, .bin, .ckpt). A
    file for a torchvision builder may have another number of classes; it is taken to be fine-tuned
    from the default weights, so their preprocessing is used, and their class names where the number
    agrees. With `module:function`, DEFAULT and NONE leave the model as the function made it.

    Raises:
        UnknownNameError: no such builder, module, function or weights.
        FileError: a weights file that is missing, unreadable, or holds more than tensors.
        InputError: weights that do not fit the model, or hold NaN or infinity.

    >>> build_model("resnet18", "NONE").image.crop
    (224, 224)
    """
    if name == SCENES:
        built = _scenes(weights)
    elif ":" in name:
        built = _from_function(name, weights)
    else:
        built = _from_torchvision(name, weights)
    for kind, tensors in (
        ("parameter", built.model.named_parameters()),
        ("buffer", built.model.named_buffers()),
    ):
        _check_finite(kind, tensors, built.name)
    built.model.eval()
    return built


def with_size(spec: ImageSpec, size: tuple[int, int]) -> ImageSpec:
    """The spec for images of another size (height, width).

    A square keeps the share of the image that its crop shows. Any other shape means the whole
    image: stretched to that shape where the file's size is fixed, as it is where it is free.

    >>> with_size(ImageSpec(None, None, resize=256, crop=(224, 224)), (448, 448)).resize
    512
    """
    if spec.crop == size:
        return spec
    if size[0] != size[1] or spec.resize is None or spec.crop is None:
        return replace(spec, resize=None, crop=None)
    return replace(spec, resize=round(spec.resize * size[0] / spec.crop[0]), crop=size)


def read_state_dict(path: Path) -> State:
    """The tensors of a weights file, by name; nothing in the file is executed.

    Raises:
        FileError: the file is missing, unreadable, or holds more than tensors.
    """
    if not path.is_file():
        raise FileError(f"weights file {path} does not exist")
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
    for key in _STATE_DICT_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not _is_state_dict(loaded):
        raise FileError(
            f"{path} holds {type(loaded).__name__}; expected a state dict (names and tensors)"
        )
    state = cast(State, dict(loaded))
    if all(key.startswith("module.") for key in state):  # written by nn.DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _is_state_dict(loaded: object) -> bool:
    return (
        isinstance(loaded, Mapping)
        and len(loaded) > 0
        and all(isinstance(value, torch.Tensor) for value in loaded.values())
    )


def load_state_dict(model: nn.Module, state: State, source: str) -> None:
    """Copy tensors into a model; every name and shape must fit.

    Raises:
        InputError: names are missing or left over, or shapes differ; the message lists some.
    """
    own = model.state_dict()
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


def _from_torchvision(name: str, weights: str) -> BuiltModel:
    # Not the video and quantised ones: files take images, and quantised layers have no gradients.
    known = [*models.list_models(models), *_ON_A_BACKBONE]
    if name not in known:
        hint = "A model of your own is given as module:function."
        raise unknown_name("model", name, [*known, SCENES], hint)
    choices = models.get_model_weights(name)
    default = getattr(choices, "DEFAULT", None)
    if _is_file(weights):
        state = read_state_dict(Path(weights))
        model = _without_weights(name, state)
        load_state_dict(model, state, weights)
        return _described(model, name, default, classes=_last_weight(state, model))
    if weights.upper() == "NONE":
        return _described(_without_weights(name, None), name, default)
    chosen = getattr(choices, weights.upper(), None)
    if chosen is None:
        offered = ["DEFAULT", "NONE", *(choice.name for choice in choices)]
        raise unknown_name(
            f"weights of {name}", weights, offered, "A state dict's file will do too."
        )
    try:
        model = models.get_model(name, weights=chosen)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash does not fit
        raise CamcoreError(
            f"{chosen.url} could not be downloaded ({error}); give a file with --weights FILE, or "
            "NONE for a model that was never trained"
        ) from error
    return _described(model, name, chosen)


def _without_weights(name: str, state: State | None) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # their own initialisation is slow and warns
        options = {"init_weights": False}
        if state is not None:  # as torchvision itself does when it loads its weights
            aux = any(key.startswith(("aux", "AuxLogits")) for key in state)
            options |= {"transform_input": True, "aux_logits": aux}
    elif name in _ON_A_BACKBONE:  # whose weights would be downloaded
        options = {"weights_backbone": None}
        if state is not None and any(key.startswith("aux_classifier.") for key in state):
            options["aux_loss"] = True
    model = cast(nn.Module, models.get_model(name, weights=None, **options))
    classes = None if state is None else _last_weight(state, model)
    if classes in (None, _last_weight(model.state_dict(), model)):
        return model
    return cast(nn.Module, models.get_model(name, weights=None, num_classes=classes, **options))


def _last_weight(state: State, model: nn.Module) -> int | None:
    """The number of classes, by a state dict's tensor for the last layer of the model."""
    matrices = [key for key, value in model.state_dict().items() if value.ndim >= 2]
    last = state.get(matrices[-1]) if matrices else None
    return None if last is None else last.shape[0]


def _described(model: nn.Module, name: str, weights: Any, classes: int | None = None) -> BuiltModel:
    """The model with the class names and preprocessing that torchvision states for weights."""
    if weights is None:
        return BuiltModel(model, name, None, ImageSpec(None, None))
    names = weights.meta.get("categories")
    class_names = tuple(names) if names and classes in (None, len(names)) else None
    return BuiltModel(model, name, class_names, _image_spec(weights.transforms()))


def _image_spec(preset: Any) -> ImageSpec:
    """What torchvision's preset does; a detector's does nothing, the model itself normalises."""
    (resize,) = getattr(preset, "resize_size", [None])
    (crop,) = getattr(preset, "crop_size", [None])
    return ImageSpec(
        None,
        None,
        mean=tuple(getattr(preset, "mean", (0.0, 0.0, 0.0))),
        std=tuple(getattr(preset, "std", (1.0, 1.0, 1.0))),
        resize=resize,
        crop=None if crop is None else (crop, crop),
        interpolation=preset.interpolation.value if resize else "bilinear",
    )


def _from_function(name: str, weights: str) -> BuiltModel:
    with _working_folder_importable():
        function = _find_function(name)
        try:
            model = function()
        except Exception as error:  # somebody else's function
            raise InputError(f"{name}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{name}() returned {type(model).__name__}; expected a torch.nn.Module")
    if _is_file(weights):
        load_state_dict(model, read_state_dict(Path(weights)), weights)
    elif weights.upper() not in ("DEFAULT", "NONE"):
        raise InputError(f"{name}: weights {weights!r} are no file; expected DEFAULT, NONE or one")
    return BuiltModel(model, name.partition(":")[2], None, ImageSpec(None, None))


def _find_function(name: str) -> Callable[[], object]:
    module_name, _, function_name = name.partition(":")
    module = _import(name, module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise unknown_name(f"function of {module_name}", function_name, functions)
    return cast(Callable[[], object], function)


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


def _scenes(weights: str) -> BuiltModel:
    from camcore.adapters import demo
    from camcore.adapters.demo import network

    if weights.upper() != "DEFAULT":
        raise InputError(f"{SCENES} comes with its own weights; leave --weights {weights} out")
    spec = ImageSpec(
        None,
        None,
        mean=network.IMAGE_MEAN,
        std=network.IMAGE_STD,
        # In pictures much larger than those it learnt from, it scores every class far too low.
        resize=network.IMAGE_SIDE,
    )
    return BuiltModel(demo.load_scene_net(), SCENES, tuple(demo.CLASS_NAMES), spec)


def _is_file(weights: str) -> bool:
    return Path(weights).suffix.lower() in WEIGHT_SUFFIXES or Path(weights).is_file()


def _check_finite(kind: str, tensors: Iterable[tuple[str, torch.Tensor]], model: str) -> None:
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{kind} {name} of {model} holds NaN or infinity; the weights are damaged"
            )


def _some(what: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return f"{what}: {', '.join(listed[:4])}{more}" if listed else ""
