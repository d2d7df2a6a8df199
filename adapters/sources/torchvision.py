"""Torchvision's models by the names of their builders, as `resnet18`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from torchvision import models

from camcore.adapters.sources.built_model import PLAIN, BuiltModel
from camcore.adapters.sources.stated import as_names, preset_fields
from camcore.adapters.sources.weights import (
    OF_DEFAULT,
    State,
    fitting,
    is_weights_file,
    last_rows,
    load_state_dict,
    read_state_dict,
)
from camcore.card import ImageSpec, assume_image
from camcore.errors import CamcoreError, unknown_name

_DETECTORS = models.list_models(models.detection)
_ON_A_BACKBONE = [*models.list_models(models.segmentation), *_DETECTORS]


def names() -> Sequence[str]:
    # Not the video and quantised ones: files take images, and quantised layers have no gradients.
    return [*models.list_models(models), *_ON_A_BACKBONE]


def takes(name: str) -> bool:
    return name in names()


def build(name: str, weights: str) -> BuiltModel:
    """The builder's model with DEFAULT or NONE, weights that torchvision names, or a file's.

    A file may have another number of classes; it is taken to be fine-tuned from the default
    weights, so their preprocessing is used, and their class names where the number agrees.
    """
    choices = models.get_model_weights(name)
    default = getattr(choices, "DEFAULT", None)
    if is_weights_file(weights):
        with torch.device("meta"):  # names alone
            names = _without_weights(name, None).state_dict()
        state = fitting(read_state_dict(weights), names)
        model = _without_weights(name, state)
        load_state_dict(model, state, weights)
        built = _described(model, name, default, classes=last_rows(state, model))
        return replace(built, image=replace(built.image, assumed=OF_DEFAULT))
    if weights.upper() == "NONE":
        # It was never trained, and knows no class by name.
        return replace(_described(_without_weights(name, None), name, default), class_names=None)
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
    classes = None if state is None else last_rows(state, model)
    if classes in (None, last_rows(model.state_dict(), model)):
        return model
    return cast(nn.Module, models.get_model(name, weights=None, num_classes=classes, **options))


def _described(model: nn.Module, name: str, weights: Any, classes: int | None = None) -> BuiltModel:
    """The model with the class names and preprocessing that torchvision states for weights."""
    if weights is None:
        plain = name in _DETECTORS
        return BuiltModel(model, name, None, PLAIN if plain else assume_image((224, 224)))
    known = as_names(weights.meta.get("categories"))
    class_names = known if known and classes in (None, len(known)) else None
    if name in _DETECTORS:
        return BuiltModel(model, name, class_names, PLAIN)
    spec = ImageSpec(None, None, **preset_fields(weights.transforms()))
    return BuiltModel(model, name, class_names, spec)
