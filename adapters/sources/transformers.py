"""Models of transformers, from a folder or the hub: `hf:./my-folder`, `hf:microsoft/resnet-50`.

`hf:resnet` is none of these but a kind of model, with the configuration that the library gives it
and without weights of its own. Of a model of images and texts, as CLIP, it is the images' tower.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from camcore.adapters.extras import needs
from camcore.adapters.images import prepare
from camcore.adapters.sources.built_model import BuiltModel
from camcore.adapters.sources.functions import described
from camcore.adapters.sources.weights import (
    OF_DEFAULT,
    fitting,
    is_weights_file,
    last_rows,
    load_state_dict,
    read_state_dict,
)
from camcore.card import ImageSpec, assume_image
from camcore.errors import CamcoreError, InputError
from camcore.export.trace.graphs import first_line

_PREFIX = "hf:"

# How transformers numbers the ways of resizing, after Pillow.
_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")

# What a classifier's class is called behind the model's name, or a segmenter's.
_HEADS = ("ForImageClassification", "ForImageClassificationWithTeacher", "ForSemanticSegmentation")

# The mean difference, of normalised values, that two ways of resizing leave of a picture.
_RESIZING = 0.05


def names() -> Sequence[str]:
    return []


def takes(name: str) -> bool:
    return name.startswith(_PREFIX)


def build(name: str, weights: str) -> BuiltModel:
    """The model with its own weights, which are DEFAULT, with NONE, or those of a file.

    Without an image processor beside the model, images are prepared as its configuration says.
    """
    with needs("transformers", "a model of transformers"):
        import transformers
    where = name.removeprefix(_PREFIX)
    is_kind = where in transformers.CONFIG_MAPPING and not Path(where).is_dir()
    with _quiet(), _told(where, is_kind):
        config = (
            transformers.AutoConfig.for_model(where)
            if is_kind
            else transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
        )
        architecture, own_config = _architecture(where, config)
        if is_weights_file(weights):
            model = _from_file(architecture, own_config, weights)
        elif weights.upper() == "NONE":
            model = architecture(own_config)
        elif weights.upper() != "DEFAULT":
            raise InputError(f"{name}: weights {weights!r} are no file; expected DEFAULT or NONE")
        elif is_kind:
            raise InputError(
                f"{name} is a kind of model, which has no weights of its own: give --weights FILE "
                "or none, or a model of the hub or in a folder"
            )
        else:
            model = _pretrained(architecture, own_config, where)
        processor = _processor(where, config, is_kind)
    built = _described(model, where, processor)
    if is_weights_file(weights):
        built = replace(built, image=replace(built.image, assumed=OF_DEFAULT))
    return replace(built, class_names=None) if weights.upper() == "NONE" else built


def _architecture(where: str, config: Any) -> tuple[Any, Any]:
    """The class to build, and its configuration: a classifier, a segmenter, or what embeds images.

    Raises:
        InputError: the model is of another kind.
    """
    import transformers

    asked = next(iter(config.architectures or ()), None)
    if asked is not None and asked.endswith(_HEADS):
        return getattr(transformers, asked), config
    if hasattr(config, "vision_config"):  # images and texts, whose images have a tower
        stem = type(config).__name__.removesuffix("Config")
        for tower in (f"{stem}VisionModelWithProjection", f"{stem}VisionModel"):
            if hasattr(transformers, tower):
                if hasattr(config, "projection_dim"):
                    config.vision_config.projection_dim = config.projection_dim
                return getattr(transformers, tower), config.vision_config
    if asked is not None and asked.endswith(("Model", "ModelWithProjection")):
        return getattr(transformers, asked), config
    if asked is None and type(config) in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        known = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
        # Of several, as with and without a teacher's head, transformers itself takes the first.
        return known[0] if isinstance(known, tuple) else known, config
    raise InputError(
        f"hf:{where} is a {asked or config.model_type}; expected a model that classifies images, "
        "segments them or embeds them. A model of your own making is given as module:function"
    )


def _pretrained(architecture: Any, config: Any, where: str) -> nn.Module:
    """The model with its own weights, all of which must be there."""
    model, found = architecture.from_pretrained(
        where, config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise InputError(
            f"hf:{where} has no weights that fit {architecture.__name__}, as its configuration "
            f"calls it: missing or of another shape: {', '.join(sorted(missing)[:4])}{more}"
        )
    return cast(nn.Module, model)


def _from_file(architecture: Any, config: Any, weights: str) -> nn.Module:
    """The model with as many classes as the file's tensor for the last layer has rows."""
    model: nn.Module = architecture(config)
    state = fitting(read_state_dict(weights), model.state_dict())
    classes = last_rows(state, model)
    if architecture.__name__.endswith(_HEADS) and classes not in (None, config.num_labels):
        config.num_labels = classes
        model = architecture(config)
    load_state_dict(model, state, weights)
    return model


def _processor(where: str, config: Any, is_kind: bool) -> Any:
    """The image processor beside a model, or that of its kind; None where there is none."""
    import transformers

    if not is_kind:
        try:
            return transformers.AutoImageProcessor.from_pretrained(where, trust_remote_code=False)
        except (OSError, ValueError):  # no file of it
            return None
    kinds = transformers.IMAGE_PROCESSOR_MAPPING
    if type(config) not in kinds:
        return None
    found = kinds[type(config)]
    processor = found.get("torchvision") if isinstance(found, dict) else found
    return None if processor is None else processor()


def _described(model: Any, where: str, processor: Any) -> BuiltModel:
    """The model as its configuration and its processor describe it."""
    plain = described(model, Path(where).name if Path(where).is_dir() else where)
    fields = {} if processor is None else processor_fields(processor)
    image, notes = plain.image, tuple[str, ...]()
    if fields:
        image = assume_image((224, 224), **{"channels": image.channels} | fields)
        notes = beside(processor, image)
    output = None
    if not type(model).__name__.endswith(_HEADS):
        embeds = type(model).__name__.endswith("WithProjection")
        output = "image_embeds" if embeds else "pooler_output"
    return replace(plain, image=image, output=output, notes=notes)


def processor_fields(processor: Any) -> dict[str, Any]:
    """The fields of an `ImageSpec` that an image processor states; none if it resizes otherwise."""
    size, crop = _lengths(processor, "size"), _lengths(processor, "crop_size")
    resize: int | tuple[int, int] | None = None
    if getattr(processor, "do_resize", False):
        if "shortest_edge" in size:
            resize = size["shortest_edge"]
        elif size.keys() >= {"height", "width"}:
            resize = (size["height"], size["width"])
        else:
            return {}
    cut = None
    if getattr(processor, "do_center_crop", False):
        edge = crop.get("shortest_edge")
        cut = (edge or crop["height"], edge or crop["width"])
    kind, share = type(processor).__name__, getattr(processor, "crop_pct", None)
    if isinstance(resize, int) and share is not None:
        if kind.startswith("ConvNext"):  # which cuts what it enlarged, and stretches what is large
            cut = (resize, resize) if resize < 384 else None
            resize = math.floor(resize / share) if resize < 384 else (resize, resize)
        else:
            resize = math.floor(resize / share)
    if isinstance(resize, int) and kind.startswith("Levit"):
        resize = int(256 / 224 * resize)
    fields: dict[str, Any] = {"resize": resize, "crop": cut}
    if resize is not None:
        fields["interpolation"] = _INTERPOLATIONS[int(processor.resample)]
    mean, std = (0.0,) * 3, (1.0,) * 3
    if getattr(processor, "do_normalize", False):
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    # Of pixels in [0, 1], whatever they are scaled to.
    scale = 255 * processor.rescale_factor if getattr(processor, "do_rescale", False) else 255
    fields["mean"] = tuple(each / scale for each in mean)
    fields["std"] = tuple(each / scale for each in std)
    if len(mean) == 3:
        swapped = getattr(processor, "do_flip_channel_order", False)
        fields["colour"] = "BGR" if swapped else "RGB"
    return fields


def _lengths(processor: Any, name: str) -> dict[str, int]:
    """A size that an image processor states, without what it leaves open."""
    return {
        key: value for key, value in dict(getattr(processor, name, None) or {}).items() if value
    }


def beside(processor: Any, spec: ImageSpec) -> tuple[str, ...]:
    """A note where a picture that is prepared as the card says is another than the processor's."""
    picture = _picture()
    given, _ = prepare(picture, spec)
    expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"])
    same = given.shape == expected.shape
    off = float(np.abs(given - expected).mean()) if same else math.inf
    if off <= _RESIZING * float(expected.std()):
        return ()
    told = f"by {off:.2g} on average" if same else f"{given.shape[2:]}, not {expected.shape[2:]}"
    return (
        f"images are prepared otherwise than by {type(processor).__name__}, {told}: normalise them "
        "with that, or state how with --resize, --crop, --mean, --std",
    )


def _picture() -> np.ndarray:
    """A smooth picture of three colours, higher than wide."""
    rows, columns = np.mgrid[:480, :360] / 480
    colours = [rows, np.sin(9 * columns) ** 2, np.cos(7 * rows * columns) ** 2]
    return np.round(255 * np.stack(colours, axis=-1)).astype(np.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """While it lasts, transformers draws no bars and tells errors alone."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _told(where: str, is_kind: bool) -> Iterator[None]:
    """Turns the library's errors, of many lines, into one that says what to do."""
    try:
        yield
    except CamcoreError:
        raise
    except Exception as error:  # of several libraries, for a network that is not there
        reason = first_line(error)
        if is_kind or Path(where).is_dir():
            raise InputError(f"hf:{where} cannot be built: {reason}") from error
        raise CamcoreError(
            f"hf:{where} is no folder here, and could not be had from the hub ({reason}); give a "
            "folder, or a kind as hf:resnet with --weights none or a file"
        ) from error
