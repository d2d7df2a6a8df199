"""Compose: the road from a model to a module that explains itself.

Trace the model, find in its graph what the method asks for, and make one module of head, tail and
kernel; the kinds of methods say how.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from camcore.card import ImageSpec, Probabilities
from camcore.errors import ExportError, InputError, unknown_name
from camcore.export.cards import check_ports, check_rows, classes_of, describe_classifier
from camcore.export.detectors.explain import OF_DETECTIONS, default_target, explain_detector
from camcore.export.detectors.readings import Reading, get_reading
from camcore.export.detectors.whole import is_detector
from camcore.export.explained import Explained
from camcore.export.families import check_request, compose
from camcore.export.families.family import Composed
from camcore.export.find.modules import Layer, name_layers
from camcore.export.find.scores import find_probabilities, first_answer
from camcore.export.given import (
    as_inputs,
    assumed,
    check_class_ids,
    check_class_names,
    check_pixels,
    check_queries,
    of_frames,
    with_queries,
)
from camcore.export.request import Boxes, Request
from camcore.export.trace.checks import check_model
from camcore.export.trace.collection import no_garbage_collection
from camcore.export.trace.graphs import first_line
from camcore.export.trace.modes import plain_modes
from camcore.export.trace.subject import MODEL, Subject
from camcore.export.trace.targets import Target, get_target
from camcore.export.trace.trace import Trace, trace
from camcore.methods import get_method
from camcore.scaling import How


@no_garbage_collection()
@plain_modes()
def explain(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    method: str = "gradcam",
    layer: Layer | Sequence[Layer] | None = None,
    target: str | Target | Callable[[Any], Tensor] | None = None,
    output: str | int | None = None,
    relu: bool | None = None,
    normalize: bool = True,
    full_size: bool = True,
    combine: How | None = None,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
    stepwise: bool = False,
    dynamic_size: bool | None = None,
    pixels: bool = False,
    boxes: int | None = None,
    concepts: int | None = None,
    box_confidence: str = "softmax",
    class_ids: str = "required",
    top: int | None = None,
    model_name: str = "",
    class_names: Sequence[str] | None = None,
    image_spec: ImageSpec | None = None,
    probabilities: Probabilities | None = None,
    detections: str | Reading | None = None,
    frames: bool = False,
    **options: Any,
) -> Explained:
    """Turn a classifier into a module that returns its prediction and class activation maps.

    Args:
        model: takes images (B, C, H, W), returns scores (B, N), or what `target` makes scores of;
            in eval mode; left as it is. It may take more inputs, and return several tensors, in
            tuples, lists or dictionaries: all are returned, `output` says which is explained.
        example: images of a shape that the model accepts, or a tuple of all its inputs, images
            first; only the shapes matter.
        method: a name of `camcore.methods.METHODS`.
        layer: the module to explain or its name, as in `model.named_modules()`, or several; None
            takes the last one whose output lies on the image's grid. For `legrad`, modules with
            attention in them; None takes all.
        target: what is explained: a name of `camcore.export.TARGETS`, or any function from
            the model's output to scores (B, N) or (B,); None takes the method's default, which is
            the class's logit for most. With `similarity` or `dot` the output is an embedding
            (B, D), and the graph takes `queries` (B or 1, Q, D), whose cosines with it, or inner
            products, are the scores (B, Q). Of a detector's detections it may be where the box lies
            in place of its class: `left`, `top`, `right`, `bottom`, `width` or `height`; by methods
            of many passes it is how well it is found again, each its own (`match`), or all of them
            together (`matches`).
        output: the name or index of the model's output that is explained, by default the first.
        relu, normalize: post-processing; relu None takes the method's default.
        full_size: maps at image size, otherwise at the layer's own.
        combine: the maps of several layers, each scaled, become their `mean`, `product` or `max`;
            None takes the method's default.
        eigen_smooth: the first principal component of the weighted activations, not their sum.
        aug_smooth: the mean over six variants of the image: three of brightness, each mirrored
            along its last axis: from left to right, of a volume (B, C, D, H, W) as well.
        stepwise: the file takes the passes of a method of many in steps, for whoever runs it to see
            how far it is: the result is the same, each step costs a prediction more.
        dynamic_size: True demands free height and width, False fixes the example's, None frees
            them where the model allows it. The batch is always free.
        pixels: the graph takes uint8 images (B, H, W, C) and normalises them itself, with the mean
            and standard deviation of `image_spec`; the example is the model's all the same.
        boxes: the most boxes that are found on each map: those of the largest regions above Otsu's
            threshold. Two more outputs, `boxes` (B, K, M, 4), x1, y1, x2, y2 in pixels of `image`,
            and `box_scores` (B, K, M), the mean of the map in a box times how likely its class is
            to be there; padded with -1 and 0.
        concepts: how many concepts the layer's activations are parted in, by Deep Feature
            Factorization (`camcore.dff`). One more output, `concept_maps` (B, concepts, H, W), and
            where the classifier is linear another, `concept_scores` (B, concepts, N), what each
            adds to each class's score. Of several layers there are none.
        box_confidence: what makes of the scores how likely a class is to be there: `softmax`;
            `sigmoid`, for a model of several labels; or `none`, which leaves it at the map's mean.
        class_ids: how a file learns which classes to explain. `required`: by the input `class_ids`;
            `optional`: that has a default, the best class, which ONNX alone can hold, and
            onnxruntime alone honours; `best`: without that input it explains the `top` best classes
            (by default one); `all`: every class.
        model_name, class_names, image_spec: written on the file's card for whoever runs it. Without
            an `image_spec` ImageNet's is assumed, and said to be, at the example's size.
        probabilities: what makes probabilities of the classes' scores, for whoever runs the file:
            `softmax`, `sigmoid`, `scores` (they are probabilities already) or `none`; None takes
            the target's own.
        detections: what makes detections of the output of a model that returns all its candidates:
            a name of `camcore.export.READINGS`, or a function of the output and the image that
            returns boxes (D, 4) in pixels, labels (D,) and scores (D,). torchvision's detectors
            need none.
        frames: images are videos (B, T, C, H, W), frame by frame, of which the model folds the
            frames into its batch, as `x.flatten(0, 1)` does. Maps are (B, K, T, H, W), one of each
            frame, each weighed by itself, and scaled together: that of a frame which says nothing
            stays dark. Models of videos (B, C, T, H, W) need no word: what lies in their layers
            tells.
        options: the method's own, such as `eps`.

    Raises:
        InputError: the model is in training mode or has NaN in its weights, or an argument does
            not fit.
        UnknownNameError: no such method, layer, target or output; the message offers the nearest.
        ExportError: the model, the layer or an operator behind the layer cannot be exported.

    >>> import torchvision
    >>> model = torchvision.models.resnet18().eval()
    >>> explained = explain(model, torch.zeros(1, 3, 64, 64), method="gradcam", layer="layer4")
    >>> explained(torch.rand(2, 3, 96, 64)).saliency_map.shape
    torch.Size([2, 1, 96, 64])
    """
    chosen = get_method(method)
    for name in options:
        if name not in chosen.options:
            raise unknown_name(f"option of {method}", name, chosen.options)
    check_model(model)
    inputs = as_inputs(example)
    if frames:
        inputs = of_frames(model, inputs)
    spec = image_spec or assumed(inputs[0], frames)
    finds = detections is not None or is_detector(model)
    if finds:
        what = get_target(default_target(chosen) if target is None else target, OF_DETECTIONS)
    else:
        what = get_target(chosen.target if target is None else target)
    subject = Subject(model, what, output, frames)
    request = Request(
        subject=subject,
        inputs=with_queries(subject, inputs),
        method=chosen,
        layers=name_layers(model, layer),
        options=chosen.options | options,
        relu=chosen.relu if relu is None else relu,
        normalize=normalize,
        full_size=full_size,
        combine=combine or chosen.combine,
        eigen_smooth=eigen_smooth,
        aug_smooth=aug_smooth,
        stepwise=stepwise,
        pixels=check_pixels(spec, inputs[0]) if pixels else None,
        boxes=None if boxes is None else Boxes(boxes, box_confidence),
        concepts=concepts,
        class_ids=class_ids,
        top=1 if top is None else top,
        detections=get_reading(detections),
    )
    if not finds:
        check_class_ids(class_ids, top)
        if subject.takes_queries:
            check_queries(subject, class_ids, class_names)
    check_request(request)
    if finds:
        return explain_detector(
            request,
            top=top,
            dynamic_size=dynamic_size,
            image_spec=image_spec,
            model_name=model_name,
            class_names=class_names,
        )
    answer = first_answer(subject, request.inputs)
    if answer is not None:  # what can be known before minutes of work
        check_class_names(class_names, answer.shape[1])
    traced = _trace(request, dynamic_size)
    num_classes = classes_of(traced, subject.takes_queries)
    check_class_names(class_names, num_classes)
    if request.top > num_classes and not subject.takes_queries:
        raise InputError(f"top={top} classes were asked for, the model has {num_classes}")
    if aug_smooth:
        check_rows(traced)
    traced, (found, body) = _compose(request, traced, free=dynamic_size)
    card = replace(
        describe_classifier(request, traced, found, body, spec),
        model=model_name or type(model).__name__,
        class_names=tuple(class_names) if class_names is not None else None,
        probabilities=probabilities or find_probabilities(subject, request.inputs, answer),
    )
    check_ports(card)
    return Explained(body, request, found, card).eval()


def _compose(request: Request, traced: Trace, free: bool | None) -> tuple[Trace, Composed]:
    """What was found, and the body; and the trace, of one size where none of any size will do."""
    try:
        return traced, compose(request, traced)
    except ExportError as error:
        if free is not None or not traced.dynamic_size:
            raise
        # What was traced for any size may still be impossible to cut or to turn round for any.
        frames = "the number of frames, " if request.subject.frames else ""
        told = first_line(error)
        note = f"{frames}height and width are fixed because of what free ones led to: {told}"
    traced = replace(_trace(request, dynamic_size=False), notes=(note,))
    return traced, compose(request, traced)


def _trace(request: Request, dynamic_size: bool | None) -> Trace:
    subject = request.subject
    return trace(
        subject,
        request.inputs,
        dynamic_size=dynamic_size,
        root=MODEL,
        queries=subject.takes_queries,
    )
