"""Step 3, compose: head, tail and a kernel become one module that explains itself."""

import math
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

import camcore
from camcore.card import Card, ImageSpec
from camcore.errors import ExportError, InputError, unknown_name
from camcore.export.bodies import (
    GUIDED,
    ActivationBody,
    AttentionBody,
    Body,
    ClassWeightBody,
    FullGradBody,
    GradientBody,
    GuidedBody,
    LayersBody,
    NoisyBody,
    Request,
    ShapleyBody,
    check_combination,
)
from camcore.export.cut import Cut, cut, dependents
from camcore.export.find.affine import is_affine
from camcore.export.find.attention import find_attentions
from camcore.export.find.biases import find_biases
from camcore.export.find.classifier import pooled_linear_weight
from camcore.export.find.grids import Layout
from camcore.export.find.layers import (
    Layer,
    default_layer,
    find_activation,
    layout_of,
    name_layers,
    usable_layers,
)
from camcore.export.find.updates import find_updates
from camcore.export.gradient.gradient import Gradient, trace_gradient, trace_second_order
from camcore.export.passes.body import LINEAR_PASSES, PASSES, AblationBody
from camcore.export.passes.plan import (
    check_channels,
    check_layout,
    check_passes,
    choose_chunk,
    fixed_passes,
    plan_steps,
)
from camcore.export.trace.collection import no_garbage_collection
from camcore.export.trace.modes import plain_modes
from camcore.export.trace.subject import MODEL, Subject, name_inputs, named_outputs
from camcore.export.trace.targets import Target, get_target
from camcore.export.trace.trace import Trace, check_model, first_line, outputs_of, sizes_of, trace
from camcore.methods import get_method
from camcore.projection import Gram
from camcore.scaling import How


class Explanation(NamedTuple):
    """What an explained classifier returns: the prediction first, then its maps.

    Shapes: scores (B, N), classes (B, K) int64, saliency_map (B, K, H, W) in [0, 1]. A model with
    other outputs returns a named tuple of those, `classes` and `saliency_map`.
    """

    scores: Tensor
    classes: Tensor
    saliency_map: Tensor


class Explained(nn.Module):
    """A model that returns its prediction and the maps of the classes asked for.

    Called with images (B, C, H, W), the model's other inputs if it has any, and optional class ids
    (B or 1, K), int64, where -1 in column k stands for the class with the k-th highest score;
    without ids it explains the best class. It is an ordinary module, which runs eagerly on the
    model's device and shares its weights; `camcore.export.save` writes it to a file.

    `body` does the work, on plain tuples; `card` describes the result, `request` what was asked
    for.
    """

    def __init__(self, body: Body, request: Request, card: Card) -> None:
        super().__init__()
        self.body = body
        self.card = card
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)

    @property
    def request(self) -> Request:
        return self._request[0]

    def forward(self, image: Tensor, *others: Tensor, class_ids: Tensor | None = None) -> Any:
        expected = len(self.request.inputs) - 1
        if len(others) == expected + 1 and class_ids is None:
            *others, class_ids = others  # type: ignore[assignment]
        if class_ids is None:
            class_ids = torch.full((1, 1), -1, dtype=torch.int64, device=image.device)
        return _record(self.card.outputs)(*self.body(image, *others, class_ids))


@lru_cache
def _record(names: tuple[str, ...]) -> Callable[..., Any]:
    if names == Explanation._fields:
        return Explanation
    return namedtuple("Explanation", names)


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
    model_name: str = "",
    class_names: Sequence[str] | None = None,
    image_spec: ImageSpec | None = None,
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
            the class's logit for most.
        output: the name or index of the model's output that is explained, by default the first.
        relu, normalize: post-processing; relu None takes the method's default.
        full_size: maps at image size, otherwise at the layer's own.
        combine: the maps of several layers, each scaled, become their `mean` or their `product`;
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
        model_name, class_names, image_spec: written on the file's card for whoever runs it.
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
    layers = name_layers(model, layer)
    inputs = _as_inputs(example)
    spec = image_spec or ImageSpec(None, None)
    subject = Subject(
        model,
        get_target(chosen.target if target is None else target),
        output,
    )
    channels = inputs[0].shape[1]
    if pixels and {len(spec.mean), len(spec.std)} - {1, channels}:
        raise InputError(
            f"images of {channels} channels want a mean and a standard deviation for each, got "
            f"{spec.mean} and {spec.std}: give an image_spec that fits"
        )
    asked = Request(
        subject=subject,
        inputs=inputs,
        method=chosen,
        layers=layers,
        options=chosen.options | options,
        relu=chosen.relu if relu is None else relu,
        normalize=normalize,
        full_size=full_size,
        combine=combine or chosen.combine,
        eigen_smooth=eigen_smooth,
        aug_smooth=aug_smooth,
        stepwise=stepwise,
        pixels=spec if pixels else None,
    )
    check_combination(asked)
    if chosen.needs in PASSES:
        check_passes(asked)
    elif stepwise:
        raise InputError(
            f"{method} takes no many passes that could be taken in steps: leave out stepwise"
        )
    traced = _trace(asked, dynamic_size)
    num_classes = _count_classes(traced)
    if aug_smooth:
        _check_rows(traced)
    try:
        request, body = _compose(asked, traced)
    except ExportError as error:
        if dynamic_size is not None or not traced.dynamic_size:
            raise
        # What was traced for any size may still be impossible to cut or to turn round for any.
        note = f"height and width are fixed because of what free ones led to: {first_line(error)}"
        traced = replace(_trace(asked, dynamic_size=False), notes=(note,))
        request, body = _compose(asked, traced)
    if class_names is not None and len(class_names) != num_classes:
        raise InputError(
            f"{len(class_names)} class names were given for a model of {num_classes} classes"
        )
    output_names, explained_output = _output_names(request)
    sizes = [] if traced.dynamic_size else traced.size
    depth, height, width = [None] * (3 - len(sizes)) + [*sizes]
    steps, state = plan_steps(request)
    card = Card(
        method=method,
        layer=_card_layer(request, layers),
        image=replace(
            spec,
            depth=depth,
            height=height,
            width=width,
            spatial_ndim=len(traced.size),
            channels=channels,
            dtype="uint8" if pixels else "float32",
        ),
        num_classes=num_classes,
        outputs=(*output_names, "classes", "saliency_map"),
        inputs=("image", *name_inputs(model, len(inputs) - 1, output_names), "class_ids"),
        explained=explained_output,
        model=model_name or type(model).__name__,
        class_names=tuple(class_names) if class_names is not None else None,
        map_size="image" if full_size else "feature",
        options=request.described(),
        notes=(*traced.notes, *request.notes),
        steps=steps,
        state=state,
        versions={"camcore": camcore.__version__, "torch": str(torch.__version__)},
    )
    _check_ports(card)
    return Explained(body, request, card).eval()


def _check_ports(card: Card) -> None:
    """Raises an `ExportError` where the model's own names are those of a run in steps."""
    taken = {"steps", "state", "next_state"} & {*card.inputs, *card.outputs}
    if card.steps is not None and taken:
        raise ExportError(
            f"the model itself has inputs or outputs called {sorted(taken)}, as a file that takes "
            "its passes in steps has. Leave out stepwise, or wrap the model in a module that calls "
            "them otherwise"
        )


def _card_layer(request: Request, asked: Sequence[str]) -> str:
    if request.biases:
        return "every bias"
    if request.method.needs == "attention_gradients" and not asked:
        return "every attention"
    return ", ".join(asked or filter(None, request.layers)) or "the image"


def _trace(request: Request, dynamic_size: bool | None) -> Trace:
    return trace(request.subject, request.inputs, dynamic_size=dynamic_size, root=MODEL)


def _count_classes(traced: Trace) -> int:
    """The number of scores for each image."""
    shape = outputs_of(traced.graph)[-1].meta["val"].shape
    if not isinstance(shape[0], torch.SymInt) or not isinstance(shape[1], int):
        raise ExportError(
            f"what is explained has the shape ({', '.join(map(str, shape))}), expected scores "
            "(B, N): a row for each image, of a number of classes that no size changes"
        )
    return shape[1]


def _check_rows(traced: Trace) -> None:
    """Outputs must have a row for each image, where the plain image's is to be told from others."""
    for output in outputs_of(traced.graph)[:-2]:
        shape = output.meta["val"].shape
        if not shape or not isinstance(shape[0], torch.SymInt):
            raise ExportError(
                f"aug_smooth runs six variants of each image in one batch, and the model returns a "
                f"tensor of shape ({', '.join(map(str, shape))}) that has no row for each image. "
                "Leave aug_smooth out, or wrap the model in a module that does not return it"
            )


def _compose(asked: Request, traced: Trace) -> tuple[Request, Body]:
    """The request with its layers found, and the body that answers it."""
    if asked.method.needs == "bias_gradients":
        return _compose_fullgrad(asked, traced)
    if asked.method.needs in GUIDED:
        return _compose_guided(asked, traced)
    if asked.method.needs in PASSES:
        return _compose_passes(asked, traced)
    if asked.method.needs == "attention_gradients":
        return _compose_legrad(asked, traced)
    graph = traced.graph
    layers, activations = _find_layers(asked, traced)
    layouts = tuple(layout_of(traced, activation) for activation in activations)
    _check_grids(traced, layouts)
    order, count = _roots_first(activations)
    roots, inner = ([activations[n] for n in part] for part in (order[:count], order[count:]))
    request = replace(
        asked,
        layers=tuple(layers[n] for n in order),
        layouts=tuple(layouts[n] for n in order),
        grams=tuple(_gram(activations[n], layouts[n]) for n in order),
    )
    parts = _cut_with_inner(graph, roots, inner)
    needs = request.method.needs
    if needs == "activations":
        return request, ActivationBody(request, parts, len(roots))
    if needs == "class_weights":
        weight = pooled_linear_weight(parts.tail, layers[0])
        return request, ClassWeightBody(request, parts, weight)
    if needs == "gradients_and_hessian_products":
        (value,) = (node.meta["val"] for node in roots)
        explained = len(outputs_of(parts.tail)) - 1
        gradient = trace_second_order(parts.tail, value, parts.crossing, explained=explained)
        return request, ShapleyBody(request, parts, 1, gradient)
    gradient = _gradient(request, parts, roots, inner)
    body = NoisyBody if needs == "noisy_gradients" else GradientBody
    return request, body(request, parts, len(roots), gradient)


def _find_layers(asked: Request, traced: Trace) -> tuple[tuple[str, ...], list[fx.Node]]:
    """The names of the layers, by default the one of the model's family, and what they return."""
    layers = asked.layers or (default_layer(traced),)
    activations = [find_activation(traced, layer) for layer in layers]
    if len(set(activations)) < len(activations):
        raise InputError(
            f"some of the layers {', '.join(map(repr, layers))} return the same value: give each "
            "once"
        )
    return layers, activations


def _check_grids(traced: Trace, layouts: Sequence[Layout]) -> None:
    """Tokens are laid out on a grid that is read off the example, which has one size."""
    if traced.dynamic_size and any(layout.kind == "tokens" for layout in layouts):
        raise ExportError(
            "a row of tokens fills the grid of one image size, and height and width are to be "
            "free: leave dynamic_size out, or set it to False"
        )


def _roots_first(nodes: Sequence[fx.Node]) -> tuple[list[int], int]:
    """The order of values in which those that depend on no other come first, and their number.

    A layer behind another one is a value inside the tail, which has its gradient all the same.
    """
    reached = {node: dependents([node]) for node in nodes}
    behind = [any(node in reached[other] for other in nodes if other is not node) for node in nodes]
    return sorted(range(len(nodes)), key=behind.__getitem__), behind.count(False)


def _compose_legrad(asked: Request, traced: Trace) -> tuple[Request, Body]:
    """LeGrad's layers: those named that attend, or all that do."""
    found, notes = find_attentions(traced, asked.layers)
    _check_grids(traced, [attention.layout for attention in found])
    order, count = _roots_first([attention.weights for attention in found])
    request = replace(
        asked,
        layers=tuple(found[n].layer for n in order),
        layouts=tuple(found[n].layout for n in order),
        notes=notes,
    )
    weights = [found[n].weights for n in order]
    roots, inner = weights[:count], weights[count:]
    parts = _cut_with_inner(traced.graph, roots, inner)
    gradient = _gradient(request, parts, roots, inner)
    return request, AttentionBody(request, parts, count, gradient)


def _compose_fullgrad(asked: Request, traced: Trace) -> tuple[Request, Body]:
    """FullGrad's layers: the image, and behind it every layer with a bias and spatial axes."""
    graph = traced.graph
    image = graph.graph.find_nodes(op="placeholder")[0]
    behind = dependents([image])
    found: dict[str, tuple[fx.Node, Tensor]] = {}
    usable = usable_layers(traced)
    for name, bias in find_biases(asked.subject.user_model).items():
        if usable.get(name) in behind:
            found[name] = (usable[name], bias)
    nodes = [node for node, _ in found.values()]
    request = replace(
        asked,
        layers=("", *found),
        # Convolutions and batch normalisations know no other.
        layouts=(Layout("channels_first", asked.spatial_ndim),) * (1 + len(nodes)),
        biases=tuple(bias for _, bias in found.values()),
    )
    parts = _cut_with_inner(graph, [image], nodes)
    return request, FullGradBody(request, parts, 1, _gradient(request, parts, [image], nodes))


def _compose_guided(asked: Request, traced: Trace) -> tuple[Request, Body]:
    """The image, whose gradients are guided, and for Grad-CAM a layer behind it."""
    image = traced.graph.graph.find_nodes(op="placeholder")[0]
    layers, nodes = [""], []
    layouts = [Layout("channels_first", asked.spatial_ndim)]
    if asked.method.needs == "gradients_and_guided_gradients":
        (layer,) = asked.layers or (default_layer(traced),)
        nodes = [find_activation(traced, layer)]
        layers, layouts = [*layers, layer], [*layouts, layout_of(traced, nodes[0])]
    request = replace(asked, layers=tuple(layers), layouts=tuple(layouts))
    parts = _cut_with_inner(traced.graph, [image], nodes)
    gradient = _gradient(request, parts, [image], nodes)
    return request, GuidedBody(request, parts, 1, gradient)


def _compose_passes(asked: Request, traced: Trace) -> tuple[Request, Body]:
    """What runs the passes: for the image, or for each layer whose activation is masked."""
    if asked.method.needs == "random_mask_scores":
        nodes = traced.graph.graph.find_nodes(op="placeholder")[:1]
        layers: tuple[str, ...] = ("",)
        layouts = [Layout("channels_first", asked.spatial_ndim)]
    else:
        layers, nodes = _find_layers(asked, traced)
        layouts = [layout_of(traced, node) for node in nodes]
    request = replace(
        asked,
        layers=layers,
        layouts=tuple(layouts),
        grams=tuple(map(_gram, nodes, layouts)),
    )
    if len(nodes) == 1:
        return _compose_layer_passes(request, traced, nodes[0])
    each = zip(request.by_layer(), nodes, strict=True)
    bodies = [_compose_layer_passes(alone, traced, node)[1] for alone, node in each]
    return request, LayersBody(request, bodies)


def _compose_layer_passes(request: Request, traced: Trace, node: fx.Node) -> tuple[Request, Body]:
    """The passes of one layer, or what tells all of them at once."""
    (layer,), (layout,) = request.layers, request.layouts
    check_layout(request.method, layer, layout)
    shape = layout.channels_first(node.meta["val"]).shape
    check_channels(request, layer, int(shape[1]))
    parts = cut(traced.graph, at=[node], kept=[node])
    needs, target = request.method.needs, request.subject.target
    to_zero = needs in LINEAR_PASSES and not request.options.get("value")
    if to_zero and target.contrast is None and is_affine(parts.tail):
        if request.stepwise:
            raise InputError(
                f"what is behind layer {layer!r} is linear in it, so that one pass tells all that "
                f"{request.method.name} asks: there are no steps, leave out stepwise"
            )
        gradient = _gradient(request, parts, [node], [])
        return request, LINEAR_PASSES[needs](request, parts, 1, gradient)
    request = choose_chunk(request, traced.graph, parts.tail)
    if request.stepwise:
        request = replace(request, passes=fixed_passes(request, shape[1:]))
    if needs != "ablated_scores":
        return request, PASSES[needs](request, parts)
    updates = find_updates(traced.graph, node, layout)
    begin = [node, *updates.ends]
    parts = cut(traced.graph, at=begin, kept=begin)
    return request, AblationBody(request, parts, updates)


def _cut_with_inner(graph: fx.GraphModule, roots: list[fx.Node], inner: list[fx.Node]) -> Cut:
    """The cut at the roots, with a tail that returns inner values behind its outputs."""
    graph.graph.output_node().args = ((*outputs_of(graph), *inner),)
    graph.recompile()
    return cut(graph, at=roots, kept=roots)


def _gradient(request: Request, parts: Cut, roots: list[fx.Node], inner: list[fx.Node]) -> Gradient:
    """With respect to the roots and the inner values, of the last output before those."""
    return trace_gradient(
        parts.tail,
        [node.meta["val"] for node in roots],
        parts.crossing,
        explained=len(outputs_of(parts.tail)) - len(inner) - 1,
        inner=len(inner),
        contrast=request.subject.target.contrast,
        guided=request.method.needs in GUIDED,
    )


def _gram(activation: fx.Node, layout: Layout) -> Gram:
    """Which matrix of inner products is the smaller one, of points or of channels.

    Kernels cannot tell where a size is free: there, the example's decides.
    """
    sizes = sizes_of(activation)[1:]
    channels = sizes[0] if layout.kind == "channels_first" else sizes[-1]
    return "space" if math.prod(sizes) // channels <= channels else "channels"


def _output_names(request: Request) -> tuple[tuple[str, ...], str | None]:
    """The names of the model's own outputs, which only a run of it tells, and the explained one."""
    with torch.no_grad():
        subject = request.subject
        returned = subject.user_model(*request.inputs)
        return tuple(named_outputs(returned)), subject.explained_output(returned)


def _as_inputs(example: Any) -> tuple[Tensor, ...]:
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(each, Tensor) for each in inputs) or inputs[0].ndim < 2:
        raise InputError(
            f"the example is {type(example).__name__} {[type(each).__name__ for each in inputs]}, "
            "expected images (B, C, H, W), or a tuple of tensors with all that the model takes, "
            "images first"
        )
    return inputs
