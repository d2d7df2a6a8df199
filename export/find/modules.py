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

    A module under several names answers to each of them, and goes by the first. One that is called
    several times may be followed by the number of a call: `body@1` is its second.

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
        name, call = split_call(layer)
        if name not in known:
            raise unknown_name("layer", name, list(known), "`camcore layers` lists them all")
        return known[name] if call is None else name_call(known[name], call)
    names: dict[nn.Module, str]
    names = {module: name for name, module in model.named_modules() if name}
    if not isinstance(layer, nn.Module) or layer not in names:
        raise InputError(
            f"layer is {type(layer).__name__}, which is none of the modules inside this model; "
            "expected one of them, or its name. `camcore layers` lists them all"
        )
    return names[layer]


def find_activation(traced: Trace, layer: str) -> fx.Node:
    """The value that the named module returns, at that call or the last that the image reaches.

    Raises:
        ExportError: its output never reaches the prediction, is not one tensor, or has no spatial
            axes; the image reaches no such call.
    """
    name, call = split_call(layer)
    by_call = _calls(traced.graph.graph).get(name, {})
    if call is not None and call not in by_call:
        raise ExportError(
            f"layer {layer!r} cannot be explained: calls of {name!r} that lead from the image to "
            f"the prediction are {', '.join(name_call(name, each) for each in by_call) or 'none'}"
        )
    outputs = returned_by_layer(traced.graph.graph).get(layer, [])
    layout = layout_or_reason(traced, outputs)
    if isinstance(layout, str):
        raise ExportError(
            f"layer {layer!r} cannot be explained: {layout}. `camcore layers` lists those that can"
        )
    return outputs[0]


def layout_of(traced: Trace, activation: fx.Node) -> Layout:
    """The layout of a value that `find_activation` gave."""
    layout = layout_or_reason(traced, [activation])
    assert isinstance(layout, Layout)
    return layout


def returned_by_module(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """For each module, what a call returned: its values that are used outside of it.

    Of several calls it is the last one that the image reaches.
    """
    return {name: _last_returned(graph, calls) for name, calls in _calls(graph).items()}


def returned_by_layer(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """As `returned_by_module`, and where there are several calls, each behind it by its number."""
    found = {}
    for name, calls in _calls(graph).items():
        found[name] = _last_returned(graph, calls)
        if len(calls) > 1:
            for call, inside in calls.items():
                found[name_call(name, call)] = _returned(graph, inside)
    return found


def returned_by_calls(graph: fx.Graph, layer: str) -> list[fx.Node]:
    """What all calls of a module returned that the image reaches, call by call."""
    calls = _calls(graph).get(layer, {})
    return [node for inside in calls.values() for node in _returned(graph, inside)]


def _last_returned(graph: fx.Graph, calls: dict[int, set[fx.Node]]) -> list[fx.Node]:
    return _returned(graph, next(reversed(calls.values())))


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
    calls = {name: list(by_call) for name, by_call in _calls(graph).items()}
    return tuple(
        f"layer {layer!r} is called {len(calls[layer])} times; explained is its last call, "
        f"{name_call(layer, calls[layer][-1])!r}"
        for layer in layers
        if len(calls.get(layer, [])) > 1
    )


def name_call(layer: str, call: int) -> str:
    """The name of one call of a layer, counted from 0."""
    return f"{layer}@{call}"


def split_call(layer: str) -> tuple[str, int | None]:
    """The layer, and the call that its name asks for, if it does."""
    name, _, call = layer.rpartition("@")
    return (name, int(call)) if name and call.isdecimal() else (layer, None)


def _calls(graph: fx.Graph) -> dict[str, dict[int, set[fx.Node]]]:
    """The nodes of each call of each module: of those that the image reaches, if it reaches any.

    Calls are counted from 0, those that lead nowhere among them.
    """
    calls: dict[str, dict[int, set[fx.Node]]] = {}
    for node in graph.nodes:
        # The key tells calls of one module apart (`layer1.0.relu@1`), the name does not.
        for key, (name, _) in node.meta.get("nn_module_stack", {}).items():
            if name not in ("", _NO_MODULE):
                by_call = calls.setdefault(name, {})
                by_call.setdefault(split_call(key)[1] or 0, set()).add(node)
    reached = dependents(graph.find_nodes(op="placeholder")[:1])
    found = {}
    for name, by_call in calls.items():
        on_the_way = {call: nodes for call, nodes in by_call.items() if nodes & reached}
        found[name] = on_the_way or by_call
    return found


def layout_or_reason(traced: Trace, outputs: list[fx.Node]) -> Layout | str:
    """The layout of what a module returns, or why it cannot be explained."""
    if not outputs:
        return "its output never reaches the prediction"
    if len(outputs) > 1:
        return f"it returns {len(outputs)} tensors, expected one"
    return find_layout(outputs[0], traced.size)
