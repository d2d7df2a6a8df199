"""timm's models by their names, as `timm:convnext_tiny.fb_in1k`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from camcore.adapters.extras import needs
from camcore.adapters.sources.built_model import BuiltModel
from camcore.adapters.sources.stated import as_names, timm_stated
from camcore.adapters.sources.weights import (
    OF_DEFAULT,
    State,
    fitting,
    is_weights_file,
    last_rows,
    load_state_dict,
    read_state_dict,
)
from camcore.card import assume_image
from camcore.errors import CamcoreError, InputError, unknown_name
from camcore.export.trace.graphs import first_line

_PREFIX = "timm:"


def names() -> Sequence[str]:
    return []  # more than a thousand, told where one of them is mistaken


def takes(name: str) -> bool:
    return name.startswith(_PREFIX)


def build(name: str, weights: str) -> BuiltModel:
    """timm's model with DEFAULT, which are those that its tag names, NONE, or a file's weights.

    A file may have another number of classes; it is taken to be fine-tuned from the named weights,
    so their preprocessing is used, and their class names where the number agrees.
    """
    with needs("timm", "a model of timm"):
        import timm
    name = name.removeprefix(_PREFIX)
    _check_name(name)
    if is_weights_file(weights):
        with torch.device("meta"):  # names alone
            names = timm.create_model(name).state_dict()
        state = fitting(read_state_dict(weights), names)
        model = _with_classes_of(state, name)
        load_state_dict(model, state, weights)
        built = _described(model, name)
        return replace(built, image=replace(built.image, assumed=OF_DEFAULT))
    if weights.upper() == "NONE":
        return replace(_described(timm.create_model(name), name), class_names=None)
    if weights.upper() != "DEFAULT":
        architecture = name.partition(".")[0]
        raise InputError(
            f"--weights {weights} is none of DEFAULT, NONE and a file: timm's models name their "
            f"weights behind a dot, {architecture} as {', '.join(_tags(architecture))}"
        )
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # of several libraries, for a network that is not there
        raise CamcoreError(
            f"the weights of timm:{name} could not be had ({first_line(error)}); give a file with "
            "--weights FILE, or NONE for a model that was never trained"
        ) from error
    return _described(model, name)


def _check_name(name: str) -> None:
    """Raises an `UnknownNameError` for a name that timm does not know; others it looks up."""
    import timm

    architecture, _, tag = name.partition(".")
    if ":" in name:  # hf-hub:, local-dir:
        return
    if not timm.is_model(architecture):
        raise unknown_name("model of timm", architecture, timm.list_models())
    if tag and tag not in _tags(architecture):
        raise unknown_name(f"weights of {architecture}", tag, _tags(architecture))


def _tags(architecture: str) -> list[str]:
    """The names of the weights that timm has for a model."""
    import timm

    names = timm.list_models(f"{architecture}.*", pretrained=True)
    return [name.partition(".")[2] for name in names]


def _with_classes_of(state: State, name: str) -> nn.Module:
    """The model, with as many classes as the state's tensor for its last layer has rows."""
    import timm

    model: nn.Module = timm.create_model(name)
    classes = last_rows(state, model)
    if classes not in (None, last_rows(model.state_dict(), model)):
        model = timm.create_model(name, num_classes=classes)
    return model


def _described(model: nn.Module, name: str) -> BuiltModel:
    """The model with the preprocessing of `timm.data`, and the names of its classes."""
    from timm.data import resolve_model_data_config

    own = timm_stated(resolve_model_data_config(model))
    return BuiltModel(
        model, name, _class_names(model), assume_image(own.size or (224, 224), **own.fields)
    )


def _class_names(model: Any) -> tuple[str, ...] | None:
    """The labels that the weights state, or those of the part of ImageNet they were trained on."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    stated = as_names((model.pretrained_cfg or {}).get("label_names"))
    if stated is not None and len(stated) == model.num_classes:
        return stated
    subset = infer_imagenet_subset(model)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(model.num_classes))
