"""Stated: what a model says of its images and its classes, by the attributes of its library.

No library is imported: timm's models carry `pretrained_cfg`, those of transformers `config`,
Ultralytics' `names`; torchvision's weights have `transforms()` and `meta`, and a function of one's
own may leave them at its model as `weights`. Of any model `image_spec` and `class_names` are taken
as they are.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from camcore.card import ImageSpec

# What says nothing: the names that transformers gives to classes without one.
_UNNAMED = re.compile(r"LABEL_\d+")


@dataclass(frozen=True)
class Stated:
    """Fields of an `ImageSpec`, the size (height, width) that images are to have, class names."""

    fields: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    class_names: tuple[str, ...] | None = None


def stated(model: nn.Module) -> Stated:
    """What a model says of itself; of several attributes that say the same, the first in this file
    wins.
    """
    found = [
        _of_own(model),
        _of_weights(getattr(model, "weights", None)),
        timm_stated(getattr(model, "pretrained_cfg", None)),
        _of_transformers(getattr(model, "config", None)),
        Stated(class_names=as_names(getattr(model, "names", None))),
    ]
    fields: dict[str, Any] = {}
    for each in found:
        # Resizing and cropping go together.
        known = {"resize", "crop"} & set(fields)
        fields = {k: v for k, v in each.fields.items() if not (known and k in known)} | fields
    return Stated(
        fields,
        next((each.size for each in found if each.size), None),
        next((each.class_names for each in found if each.class_names), None),
    )


def channels_of(model: nn.Module) -> int:
    """The channels that a model's first convolution takes, where those are an image's: 1 or 3."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return 1 if first is not None and first.in_channels == 1 else 3


def preset_fields(preset: Any) -> dict[str, Any]:
    """What torchvision's preset does; a detector's does nothing, the model itself normalises."""
    (resize,) = getattr(preset, "resize_size", [None])
    (crop,) = getattr(preset, "crop_size", [None])
    return {
        "mean": tuple(getattr(preset, "mean", (0.0, 0.0, 0.0))),
        "std": tuple(getattr(preset, "std", (1.0, 1.0, 1.0))),
        "resize": resize,
        "crop": None if crop is None else (crop, crop),
        "interpolation": preset.interpolation.value if resize else "bilinear",
        "colour": "RGB",
    }


def as_names(names: Any) -> tuple[str, ...] | None:
    """Names of classes, given as a sequence or by their index; None where they are none."""
    if isinstance(names, Mapping):
        by_index = {int(index): name for index, name in names.items() if str(index).isdecimal()}
        if sorted(by_index) != list(range(len(names))):
            return None
        names = [by_index[index] for index in range(len(names))]
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        return None
    if not all(isinstance(name, str) for name in names) or all(map(_UNNAMED.fullmatch, names)):
        return None
    return tuple(names)


def _of_own(model: nn.Module) -> Stated:
    names = as_names(getattr(model, "class_names", None))
    spec = getattr(model, "image_spec", None)
    if not isinstance(spec, ImageSpec):
        return Stated(class_names=names)
    fields = ("channels", "mean", "std", "resize", "crop", "interpolation", "colour")
    return Stated({name: getattr(spec, name) for name in fields}, class_names=names)


def _of_weights(weights: Any) -> Stated:
    """Of torchvision's weights, https://docs.pytorch.org/vision/stable/models.html."""
    transforms, meta = getattr(weights, "transforms", None), getattr(weights, "meta", None)
    if not callable(transforms) or not isinstance(meta, Mapping):
        return Stated()
    preset = transforms()
    return Stated(preset_fields(preset), class_names=as_names(meta.get("categories")))


def timm_stated(cfg: Any) -> Stated:
    """Of timm's `pretrained_cfg`, as its `resolve_data_config` and `create_transform` read it, or
    of what the former returns.
    """
    if not isinstance(cfg, Mapping):
        cfg = getattr(cfg, "__dict__", {})
    mean, std, size = (cfg.get(name) for name in ("mean", "std", "input_size"))
    if not (mean and std and size):
        return Stated()
    channels, height, width = size
    fields: dict[str, Any] = {"channels": channels, "mean": tuple(mean), "std": tuple(std)}
    if channels == 3:
        fields["colour"] = "RGB"
    share, mode = cfg.get("crop_pct") or 0.875, cfg.get("crop_mode") or "center"
    if mode == "squash":
        scaled = (math.floor(height / share), math.floor(width / share))
        fields |= {"resize": scaled, "crop": (height, width)}
    elif mode == "center" and height == width:
        fields |= {"resize": math.floor(height / share), "crop": (height, width)}
    if isinstance(cfg.get("interpolation"), str):
        fields["interpolation"] = cfg["interpolation"]
    return Stated(fields, (height, width), as_names(cfg.get("label_names")))


def _of_transformers(config: Any) -> Stated:
    """Of a transformers `config`, which tells size and classes but not the mean."""
    names = as_names(getattr(config, "id2label", None))
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    fields = {"channels": channels} if isinstance(channels, int) else {}
    if isinstance(size, int):
        return Stated(fields, (size, size), names)
    if isinstance(size, list | tuple) and len(size) == 2:
        return Stated(fields, (int(size[0]), int(size[1])), names)
    return Stated(fields, None, names)
