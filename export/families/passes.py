"""Passes: the scores of many masked images or activations, as Score-CAM or RISE look at them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import fx

from camcore.errors import ExportError, InputError
from camcore.export.body import LayersBody
from camcore.export.cut import cut
from camcore.export.families.family import Composed, Family, check_sizes, place_of
from camcore.export.find.affine import is_affine
from camcore.export.find.grids import Layout, refuse_frames, smaller_gram
from camcore.export.find.layers import find_layers, layer_notes
from camcore.export.gradient.gradient import gradient_of
from camcore.export.passes.ablation import AblationBody, LinearAblationBody
from camcore.export.passes.body import PassesBody
from camcore.export.passes.linear import LinearBody
from camcore.export.passes.plan import make_plan
from camcore.export.passes.recipro import LinearReciproBody, ReciproBody
from camcore.export.passes.rise import RiseBody
from camcore.export.passes.score import ScoreBody
from camcore.export.request import Found, Request
from camcore.export.trace.trace import Trace
from camcore.methods import Method


@dataclass(frozen=True)
class Bodies:
    """The body that takes the passes, and the one for what is linear behind the layer, if any."""

    passes: type[PassesBody[Any]]
    linear: type[LinearBody] | None = None


def _check(request: Request) -> None:
    check_sizes(request)
    name, options = request.method.name, request.options
    if request.stepwise and request.aug_smooth:
        raise InputError("stepwise and aug_smooth do not go together: leave out one of them")
    if request.stepwise and len(request.layers) > 1:
        raise InputError(
            f"stepwise takes the passes of one layer in steps, got {', '.join(request.layers)}: "
            "leave it out, or give one layer"
        )
    for option in {"chunk", "channels", "samples", "n_masks", "cells"} & set(options):
        value = options[option]
        is_open = option in ("channels", "chunk") and value is None
        if not is_open and (type(value) is not int or value < 1):
            raise InputError(f"{name} expects {option} to be a whole number above 0, got {value!r}")
    for option in {"ratio", "probability"} & set(options):
        if not 0 < options[option] <= 1:
            raise InputError(
                f"{name} expects a {option} above 0 and at most 1, got {options[option]!r}"
            )


def _check_without_layers(request: Request) -> None:
    if request.layers:
        raise InputError(
            f"{request.method.name} takes no layer, for it masks the image; got "
            f"{', '.join(request.layers)}"
        )
    _check(request)


def _compose_of_layers(bodies: Bodies, request: Request, traced: Trace) -> Composed:
    """What runs the passes for each layer whose activation is masked."""
    return _compose(bodies, request, traced, *find_layers(traced, request.layers))


def _compose_of_images(bodies: Bodies, request: Request, traced: Trace) -> Composed:
    """What runs the passes for the image."""
    image = traced.graph.graph.find_nodes(op="placeholder")[0]
    layout = Layout("channels_first", request.spatial_ndim)
    return _compose(bodies, request, traced, ("",), [image], (layout,))


def _compose(
    bodies: Bodies,
    request: Request,
    traced: Trace,
    layers: tuple[str, ...],
    nodes: Sequence[fx.Node],
    layouts: tuple[Layout, ...],
) -> Composed:
    found = Found(
        layers,
        layouts,
        place_of(request, layers),
        grams=tuple(map(smaller_gram, nodes, layouts)),
        notes=layer_notes(traced.graph.graph, layers, layouts),
    )
    if len(nodes) == 1:
        return _compose_layer(bodies, request, found, traced, nodes[0])
    each = zip(found.by_layer(), nodes, strict=True)
    own = [_compose_layer(bodies, request, alone, traced, node)[1] for alone, node in each]
    return found, LayersBody(request, found, own)


def _compose_layer(
    bodies: Bodies, request: Request, found: Found, traced: Trace, node: fx.Node
) -> Composed:
    """The passes of one layer, or what tells all of them at once."""
    (layer,), (layout,) = found.layers, found.layouts
    _check_layout(request.method, layer, layout)
    refuse_frames(request.method.name, [layout])
    shape = layout.channels_first(node.meta["val"]).shape
    _check_channels(request, layer, int(shape[1]))
    parts = cut(traced.graph, at=[node], kept=[node])
    to_zero = not request.options.get("value")
    without_contrast = request.subject.target.contrast is None
    if bodies.linear is not None and to_zero and without_contrast and is_affine(parts.tail):
        if request.stepwise:
            raise InputError(
                f"what is behind layer {layer!r} is linear in it, so that one pass tells all that "
                f"{request.method.name} asks: there are no steps, leave out stepwise"
            )
        return found, bodies.linear(request, found, parts, 1, gradient_of(parts, [node]))
    passed = traced.graph if bodies.passes.masks_image else parts.tail
    found = replace(found, plan=make_plan(request, bodies.passes, shape[1:], passed))
    return found, bodies.passes.at(node, parts, traced.graph, request, found)


def _check_channels(request: Request, layer: str, channels: int) -> None:
    """Raises an `InputError` where more channels are asked for than there are."""
    wanted = request.options.get("channels")
    if wanted is not None and wanted > channels:
        raise InputError(
            f"{request.method.name} is to mask with {wanted} channels, and layer {layer!r} has "
            f"{channels}: give fewer, or None for all of them"
        )


def _check_layout(method: Method, layer: str, layout: Layout) -> None:
    """Raises an `ExportError` where a method is not made for such an activation."""
    if method.name == "vit-reciprocam" and layout.kind != "tokens":
        raise ExportError(
            f"vit-reciprocam masks tokens, and layer {layer!r} returns none: choose reciprocam, "
            "with gaussian=True for the same masks"
        )
    if method.name == "rise" and layout.spatial_ndim != 2:
        raise ExportError(
            f"rise masks images (B, C, H, W), got {layout.spatial_ndim} axes of space"
        )


def _of_layers(bodies: Bodies) -> Family:
    return Family(partial(_compose_of_layers, bodies), _check, many_passes=True)


ABLATIONS = replace(_of_layers(Bodies(AblationBody, LinearAblationBody)), of_matches=True)
CHANNEL_MASKS = _of_layers(Bodies(ScoreBody))
POINTS = _of_layers(Bodies(ReciproBody, LinearReciproBody))
RANDOM_MASKS = Family(
    partial(_compose_of_images, Bodies(RiseBody)),
    _check_without_layers,
    takes_layers=False,
    many_passes=True,
    of_matches=True,
)
