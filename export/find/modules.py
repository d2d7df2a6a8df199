"""Modules: which value of a traced graph a named module returns, and how that lies."""

from collections.abc import Iterable, Sequence

from torch import Tensor, fx, nn

from camcore.errors import ExportError, InputError, unknown_name
from camcore.export.cut import dependents
from camcore.export.find.grids import Layout, find_layout
from camcore.export.trace.graphs import first_names
from camcore.export.trace.trace import Trace

# A module inside the model, or its name.
Layer = str | nn.Module

# torch.export's name for what it adds itself.
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"


def name_layers(model: nn.Module, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
    """The names of the modules to explain, which may be given themselves.

    A module under several names answers to each of them, and goes by the first.

    Raises:
        InputError, UnknownNameError: the model has no such module.
    """
    if layer is None:
        return ()
    if isinstance(layer, Sequence) and not isinstance(layer, str):
        return tuple(_name(model, each) for each in layer)
    return (_name(model, layer),)


def _name(model: nn.Module, layer: Layer) -> str:
    known = {name: first for name, first in first_names(model).items() if name}
    if isinstance(layer, str):
        if layer not in known:
            raise unknown_name("layer", layer, list(known), "`camcore layers` lists them all")
        return known[layer]
    names: dict[nn.Module, str]
    names = {module: name for name, module in model.named_modules() if name}
    if not isinstance(layer, nn.Module) or layer not in names:
        raise InputError(
            f"layer is {type(layer).__name__}, which is none of the modules inside this model; "
            "expected one of them, or its name. `camcore layers` lists them all"
        )
    return names[layer]


def find_activation(traced: Trace, layer: str) -> fx.Node:
    """The value that the named module returns, at the last call that the image reaches.

    Raises:
        ExportError: its output never reaches the prediction, is not one tensor, or has no spatial
            axes.
    """
    outputs = returned_by_module(traced.graph.graph).get(layer, [])
    layout = layout_or_reason(traced, outputs)
    if isinstance(layout, str):
        raise ExportError(
            f"layer {layer!r} cannot be explained: {layout}. `camcore layers` lists those that can"
        )
    return outputs[0]


def usable_layers(traced: Trace) -> dict[str, fx.Node]:
    """Every layer that can be explained, with the value that `find_activation` gives."""
    return {
        name: outputs[0]
        for name, outputs in returned_by_module(traced.graph.graph).items()
        if isinstance(layout_or_reason(traced, outputs), Layout)
    }


def layout_of(traced: Trace, activation: fx.Node) -> Layout:
    """The layout of a value that `find_activation` gave."""
    layout = layout_or_reason(traced, [activation])
    assert isinstance(layout, Layout)
    return layout


def returned_by_module(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """For each module, what a call returned: its values that are used outside of it.

    Of several calls it is the last one that the image reaches.
    """
    return {name: _returned(graph, calls[-1]) for name, calls in _calls(graph).items()}


def returned_by_calls(graph: fx.Graph, layer: str) -> list[fx.Node]:
    """What all calls of a module returned that the image reaches, call by call."""
    return [node for inside in _calls(graph).get(layer, []) for node in _returned(graph, inside)]


def _returned(graph: fx.Graph, inside: set[fx.Node]) -> list[fx.Node]:
    """The values of a call that are used outside of it."""
    return [
        node
        for node in graph.nodes
        if node in inside
        and isinstance(node.meta.get("val"), Tensor)
        and any(user not in inside for user in node.users)
    ]


def call_notes(graph: fx.Graph, layers: Iterable[str]) -> tuple[str, ...]:
    """What a card is to say of layers that are called several times on the image's way."""
    counts = {name: len(calls) for name, calls in _calls(graph).items()}
    return tuple(
        f"layer {layer!r} is called {counts[layer]} times; explained is its last call"
        for layer in layers
        if counts.get(layer, 1) > 1
    )


def _calls(graph: fx.Graph) -> dict[str, list[set[fx.Node]]]:
    """The nodes of each call of each module: of those that the image reaches, if it reaches any."""
    calls: dict[str, dict[str, set[fx.Node]]] = {}
    for node in graph.nodes:
        # The key tells calls of one module apart (`layer1.0.relu@1`), the name does not.
        for call, (name, _) in node.meta.get("nn_module_stack", {}).items():
            if name not in ("", _NO_MODULE):
                calls.setdefault(name, {}).setdefault(call, set()).add(node)
    reached = dependents(graph.find_nodes(op="placeholder")[:1])
    found = {}
    for name, by_call in calls.items():
        every = list(by_call.values())
        found[name] = [nodes for nodes in every if nodes & reached] or every
    return found


def layout_or_reason(traced: Trace, outputs: list[fx.Node]) -> Layout | str:
    """The layout of what a module returns, or why it cannot be explained."""
    if not outputs:
        return "its output never reaches the prediction"
    if len(outputs) > 1:
        return f"it returns {len(outputs)} tensors, expected one"
    return find_layout(outputs[0], traced.size)
