"""Explain a detector: what it was asked for, checked; what was found; and its card."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

import camcore
from camcore.card import Card, ImageSpec
from camcore.errors import InputError
from camcore.export.detectors.compose import DETECTIONS, Composed, compose_detector
from camcore.export.detectors.coordinates import COORDINATES
from camcore.export.detectors.geometry import Frame, Framing
from camcore.export.detectors.masked import compose_masked
from camcore.export.detectors.matches import MATCHES
from camcore.export.detectors.pyramid import compose_pyramid
from camcore.export.detectors.resizing import framing_of
from camcore.export.detectors.whole import is_detector, outputs_of_detector, trace_detector
from camcore.export.explained import ExplainedDetector
from camcore.export.families import family_of
from camcore.export.request import Found, Request, describe
from camcore.export.trace.targets import TARGETS, Target
from camcore.methods import METHODS, Method

# Where two-stage detectors look at regions, and one-stage ones at a pyramid.
_REGIONS, _PYRAMID = "roi_heads.box_roi_pool", "backbone"
_HEAD, _BOX_HEAD = "head.classification_head", "head.regression_head"

# What of detections is explained, by gradients and by many passes.
_OF_GRADIENTS = {name: Target(name) for name in ("logit", *COORDINATES)}
OF_DETECTIONS: Mapping[str, Target] = {**_OF_GRADIENTS, **MATCHES}


_OF_LOOPS = "height and width are fixed, for the detector runs in a loop"


def default_target(method: Method) -> str | Target:
    """What of detections a method explains unless it is asked for something else."""
    return next(iter(_targets_of(method)), TARGETS[method.target])


def _targets_of(method: Method) -> Mapping[str, Target]:
    family = family_of(method)
    if family.of_matches:
        return MATCHES
    if family.of_detections and method.target == "logit":
        return _OF_GRADIENTS
    return {"logit": OF_DETECTIONS["logit"]} if family.of_pyramids else {}


def explain_detector(
    request: Request,
    *,
    top: int | None,
    dynamic_size: bool | None,
    image_spec: ImageSpec | None,
    model_name: str,
    class_names: Sequence[str] | None,
) -> ExplainedDetector:
    """A detector with a map of each of its first `top` detections.

    Where `top` is None that is `compose.DETECTIONS`, or `compose.FEW` if each takes a pass. By a
    method of activations alone it has one map of the image.

    Raises:
        InputError: an option that detectors do not have.
        ExportError: the detector cannot be traced, its scores cannot be followed, or no gradient
            leads back to the layer.
    """
    detector, image = request.subject.user_model, request.inputs[0]
    _check(request, top, dynamic_size)
    in_loop = family_of(request.method).of_matches
    traced = trace_detector(detector, image, request.detections, False if in_loop else dynamic_size)
    graph, notes = traced.graph, traced.notes
    framing = framing_of(detector) if traced.dynamic_size else _of_one_size(detector, image)
    body: nn.Module
    if family_of(request.method).of_pyramids:
        layers = request.layers or ((_PYRAMID,) if is_detector(detector) else ())
        body = compose_pyramid(graph, layers, request, framing)
        found = Found(layers=layers, layouts=(), place=", ".join(layers), notes=notes)
        labels = _count(request, class_names, None)
        explained, maps = None, "saliency_map"
    elif in_loop:
        layers = request.layers
        if family_of(request.method).takes_layers and is_detector(detector):
            layers = layers or (_PYRAMID,)
        request = replace(request, top=top or DETECTIONS)
        body = compose_masked(graph, layers, request, framing)
        notes = (_OF_LOOPS, f"{body.runs} runs of the detector for each image")
        found = Found(layers, layouts=(), place=", ".join(layers) or "the image", notes=notes)
        labels = _count(request, class_names, None)
        together = request.subject.target.name == "matches"
        explained, maps = None, "saliency_map" if together else "detection_maps"
    else:
        of_boxes = request.subject.target.name in COORDINATES
        choices = [request.layers] if request.layers else default_layers(detector, of_boxes)
        composed = compose_detector(graph, choices, request, framing, top)
        body, request = composed.body, replace(request, top=composed.top)
        found = _found(composed, choices, notes)
        labels = _count(request, class_names, composed.channels)
        explained, maps = "boxes" if of_boxes else "scores", "detection_maps"
    _, channels, height, width = image.shape
    size = (
        {"height": None, "width": None}
        if traced.dynamic_size
        else {"height": height, "width": width}
    )
    # Detectors mostly normalise by themselves, and take values in [0, 1].
    spec = image_spec or ImageSpec(height, width, mean=(0.0,) * channels, std=(1.0,) * channels)
    card = Card(
        method=request.method.name,
        layer=found.place,
        image=replace(spec, **size, channels=channels, dtype="float32"),
        num_classes=labels,
        outputs=(*outputs_of_detector(detector), maps),
        inputs=("image",),
        explained=explained,
        class_ids="best",
        top=request.top,
        model=model_name or type(detector).__name__,
        class_names=None if class_names is None else tuple(class_names),
        options=describe(request, found),
        notes=found.notes,
        versions={"camcore": camcore.__version__, "torch": str(torch.__version__)},
    )
    return ExplainedDetector(body, request, found, card).eval()


def _found(
    composed: Composed, choices: Sequence[tuple[str, ...]], of_trace: Sequence[str]
) -> Found:
    notes = list(of_trace)
    place = ", ".join(composed.layers)
    if choices and composed.layers != choices[0]:
        notes.append(f"explained at {place!r}: what is before it looks at more than a window")
    if not composed.local:
        notes.append(
            f"what follows {place!r} looks at all of it, so each of the {composed.top} detections "
            "that are explained takes a pass back of its own"
        )
    return Found(
        layers=composed.layers,
        layouts=(),
        place=place,
        products=composed.products,
        notes=tuple(notes),
    )


def _count(request: Request, class_names: Sequence[str] | None, channels: int | None) -> int:
    """How many labels there are; `channels` is how many numbers a place is scored by, if known.

    Raises:
        InputError: it cannot be known, or there are as many names as there are not labels.
    """
    if request.detections is None:
        labels = count_labels(request.subject.user_model)
        if class_names is not None and len(class_names) != labels:
            raise InputError(
                f"{len(class_names)} class names were given for a detector of {labels} labels, the "
                "background, label 0, among them"
            )
        return labels
    # How a reading counts labels is its own.
    if class_names is not None:
        return len(class_names)
    if channels is None:
        raise InputError(
            f"{request.method.name} does not follow the scores to the classes: give class_names, "
            "for how many there are"
        )
    return channels


def _check(request: Request, top: int | None, dynamic_size: bool | None) -> None:
    image = request.inputs[0]
    if len(request.inputs) > 1 or image.ndim != 4 or image.shape[0] != 1:
        raise InputError(
            f"a detector is explained for one image (1, C, H, W), got {tuple(image.shape)} and "
            f"{len(request.inputs) - 1} further inputs"
        )
    family, targets = family_of(request.method), _targets_of(request.method)
    if not targets:
        expected = [name for name, each in METHODS.items() if _targets_of(each)]
        raise InputError(
            f"{request.method.name} is not for detections; expected {', '.join(expected)}"
        )
    target = request.subject.target.name
    if target not in targets:
        raise InputError(
            f"{request.method.name} of a detector explains the target {', '.join(targets)}, got "
            f"{target!r}"
        )
    refused = {
        "eigen_smooth": request.eigen_smooth,
        "aug_smooth": request.aug_smooth,
        "stepwise": request.stepwise,
        "pixels": request.pixels is not None,
        "boxes": request.boxes is not None,
        "concepts": request.concepts is not None,
        "full_size=False": not request.full_size,
        # Its runs go one by one.
        "chunk": request.options.get("chunk", 1) not in (None, 1),
        f"combine={request.combine!r}": request.combine not in _combines(request),
        f"class_ids={request.class_ids!r}": request.class_ids not in ("required", "best"),
    }
    given = [name for name, asked in refused.items() if asked]
    if given:
        raise InputError(f"the maps of a detector know no {', '.join(given)}: leave it out")
    if dynamic_size and family.of_matches:
        raise InputError(
            f"{request.method.name} runs the detector in a loop, whose images are of one size: "
            "leave out dynamic_size"
        )
    if top is not None and family.of_pyramids:
        raise InputError(f"{request.method.name} gives one map of the image: leave out top")
    if top is not None and not (isinstance(top, int) and top > 0):
        raise InputError(f"expected top to be 1 or more, got {top!r}")


def _combines(request: Request) -> tuple[str, ...]:
    """What the levels of a pyramid may become: one activation, or a map each."""
    family = family_of(request.method)
    of_levels = family.of_pyramids or (family.of_matches and family.takes_layers)
    return (request.method.combine, "max") if of_levels else (request.method.combine,)


def default_layers(detector: nn.Module, of_boxes: bool = False) -> list[tuple[str, ...]]:
    """Where one of torchvision's detectors is explained, its classes or its boxes, the first that
    will do: the earlier, the more is shown. None of any other detector.
    """
    if not is_detector(detector):
        return []
    names = [name for name, _ in detector.named_modules()]
    if _REGIONS in names:
        return [(_REGIONS,)]
    place = _BOX_HEAD if of_boxes else _HEAD
    head = [name for name in names if name.startswith(f"{place}.")]
    return [(name,) for name in (_PYRAMID, *head)]


def _of_one_size(detector: nn.Module, image: Tensor) -> Framing:
    frame = frame_of(detector, image)
    return lambda _: frame


def frame_of(detector: nn.Module, image: Tensor) -> Frame:
    """How the detector resizes and pads an image of that size, if it does so by itself."""
    size = int(image.shape[2]), int(image.shape[3])
    if not is_detector(detector):
        return Frame(size, size, size)
    with torch.no_grad():
        batch, _ = detector.transform([image[0]])  # type: ignore[operator]
    ((height, width),) = batch.image_sizes
    return Frame(size, (height, width), tuple(batch.tensors.shape[-2:]))


def count_labels(detector: nn.Module) -> int:
    """How many labels a detector knows, the background among them."""
    for place in ("roi_heads.box_predictor.cls_score", _HEAD):
        try:
            module = detector.get_submodule(place)
        except AttributeError:
            continue
        for name in ("out_features", "num_classes", "num_columns"):
            if isinstance(count := getattr(module, name, None), int):
                return count
    raise InputError(
        f"{type(detector).__name__} does not say how many labels it knows: expected a box "
        "predictor or a classification head as torchvision's detectors have"
    )
