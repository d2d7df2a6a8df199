"""Layers: those that can be explained, and those that a request asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from camcore.errors import InputError
from camcore.export.find.default import default_layer
from camcore.export.find.frames import check_frames, unfolded
from camcore.export.find.grids import Layout
from camcore.export.find.modules import (
    call_notes,
    find_activation,
    layout_of,
    layout_or_reason,
    returned_by_layer,
    split_call,
)
from camcore.export.find.places import placed
from camcore.export.trace.graphs import sizes_of
from camcore.export.trace.subject import MODEL, Subject
from camcore.export.trace.targets import get_target
from camcore.export.trace.trace import Trace, trace


@dataclass(frozen=True)
class LayerInfo:
    """A named module as a place to explain; `shape` is its output's, (C, *S), for the example."""

    name: str
    kind: str
    shape: tuple[int, ...]
    usable: bool
    default: bool
    reason: str


def list_layers(model: nn.Module, example: Tensor, *, frames: bool = False) -> list[LayerInfo]:
    """Every named module that takes part in the prediction, in the order of execution.

    Args:
        model: in eval mode.
        example: images (B, C, H, W).
        frames: they are videos (B, T, C, H, W), whose frames the model folds into its batch.

    Raises:
        InputError, ExportError: as `trace`.
    """
    if frames:
        subject = Subject(model, get_target("logit"), frames=True)
        traced = trace(subject, example.transpose(1, 2), root=MODEL)
    else:
        traced = trace(model, example)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    chosen = default_layer(traced)
    found = []
    for name, outputs in returned_by_layer(traced.graph.graph).items():
        layout = layout_or_reason(traced, outputs)
        reason = layout if isinstance(layout, str) else layout.describe()
        shape = sizes_of(outputs[-1])[1:] if outputs else ()
        usable = name == chosen or isinstance(layout, Layout)
        if name == chosen:
            last = "the last output on the image's grid that the prediction looks at"
            reason = f"{last}; {reason}" if reason else last
        found.append(
            LayerInfo(name, kinds[split_call(name)[0]], shape, usable, name == chosen, reason)
        )
    return found


def find_layers(
    traced: Trace, names: Sequence[str]
) -> tuple[tuple[str, ...], list[fx.Node], tuple[Layout, ...]]:
    """The layers named, else the default one, with what they return, and where its points are.

    Where a layer has a row for each frame of a video, what it returns becomes (B, T, ...).

    Raises:
        InputError: two of them return the same value.
        ExportError: as `find_activation`, and `default_layer` where none is named.
    """
    layers = tuple(names) or (default_layer(traced),)
    activations = [find_activation(traced, layer) for layer in layers]
    if len(set(activations)) < len(activations):
        raise InputError(
            f"some of the layers {', '.join(map(repr, layers))} return the same value: give each "
            "once"
        )
    layouts = []
    for layer, activation in zip(layers, activations, strict=True):
        layout = layout_of(traced, activation)
        if layout.frames:
            check_frames(traced, layer, activation)
        layouts.append(placed(traced, layer, activation, layout))
    activations = [
        unfolded(each) if layout.frames else each
        for each, layout in zip(activations, layouts, strict=True)
    ]
    return layers, activations, tuple(layouts)


def layer_notes(
    graph: fx.Graph, layers: Sequence[str], layouts: Sequence[Layout]
) -> tuple[str, ...]:
    """What a card says of the layers: which calls they are, and how they were turned."""
    turned = [
        f"layer {layer!r} has the image {layout.turn.describe()}; its map is turned back"
        for layer, layout in zip(layers, layouts, strict=True)
        if layout.turn is not None
    ]
    return (*call_notes(graph, layers), *turned)
