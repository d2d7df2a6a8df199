"""Layers: which named modules can be explained, which is the default, and what each returns."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from camcore.errors import ExportError, unknown_name
from camcore.export.trace import Trace, trace

# What comes behind these has lost the image's grid, even where it still looks like one (VGG pools
# to 7 x 7).
_GLOBAL_POOLS = {
    torch.ops.aten.adaptive_avg_pool1d.default,
    torch.ops.aten.adaptive_avg_pool2d.default,
    torch.ops.aten.adaptive_avg_pool3d.default,
    torch.ops.aten.adaptive_max_pool2d.default,
    torch.ops.aten.mean.dim,
}


# torch.export's name for what it adds itself.
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"


@dataclass(frozen=True)
class LayerInfo:
    """A named module as a place to explain; `shape` is its output's, (C, *S), for the example."""

    name: str
    kind: str
    shape: tuple[int, ...]
    usable: bool
    default: bool
    reason: str


def list_layers(model: nn.Module, example: Tensor) -> list[LayerInfo]:
    """Every named module that takes part in the prediction, in the order of execution.

    Args:
        model: in eval mode.
        example: images (B, C, H, W).

    Raises:
        InputError, ExportError: as `trace`.
    """
    traced = trace(model, example)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    chosen = default_layer(traced)
    found = []
    for name, outputs in _outputs(traced.graph.graph).items():
        reason = _unusable(name, outputs)
        shape = tuple(_hint(size) for size in outputs[-1].meta["val"].shape[1:]) if outputs else ()
        if name == chosen:
            reason = "the last output on the image's grid, before global pooling"
        found.append(
            LayerInfo(
                name, kinds[name], shape, name == chosen or not reason, name == chosen, reason
            )
        )
    return found


def default_layer(traced: Trace) -> str:
    """The layer that is explained unless another is named: the last one on the image's grid.

    Where several modules return that same value, it is the outermost one (`layer4`, not
    `layer4.2.relu`).

    Raises:
        ExportError: no layer has spatial axes.
    """
    graph = traced.graph.graph
    order = {node: position for position, node in enumerate(graph.nodes)}
    pooled = _behind_global_pools(graph)
    candidates = [
        (order[outputs[0]], -name.count("."), name)
        for name, outputs in _outputs(graph).items()
        if not _unusable(name, outputs) and outputs[0] not in pooled
    ]
    if not candidates:
        raise ExportError(
            "no layer of the model has an output with spatial axes (B, C, H, W): there is nothing "
            "to map"
        )
    return max(candidates)[2]


def check_layer_name(model: nn.Module, layer: str) -> None:
    """Raises an `UnknownNameError` where the model has no module of that name."""
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise unknown_name("layer", layer, names, "`camcore layers` lists them all")


def find_activation(traced: Trace, layer: str) -> fx.Node:
    """The value that the named module returns, at its last call if it is called several times.

    Raises:
        ExportError: its output never reaches the prediction, is not one tensor, or has no spatial
            axes.
    """
    outputs = _outputs(traced.graph.graph).get(layer, [])
    reason = _unusable(layer, outputs)
    if reason:
        raise ExportError(
            f"layer {layer!r} cannot be explained: {reason}. `camcore layers` lists those that can"
        )
    return outputs[0]


def _outputs(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """For each module, what its last call returned: its values that are used outside of it."""
    calls: dict[str, dict[str, set[fx.Node]]] = {}
    for node in graph.nodes:
        # The key tells calls of one module apart (`layer1.0.relu@1`), the name does not.
        for call, (name, _) in node.meta.get("nn_module_stack", {}).items():
            if name not in ("", _NO_MODULE):
                calls.setdefault(name, {}).setdefault(call, set()).add(node)
    returned = {}
    for name, by_call in calls.items():
        inside = list(by_call.values())[-1]
        returned[name] = [
            node
            for node in graph.nodes
            if node in inside
            and isinstance(node.meta.get("val"), Tensor)
            and any(user not in inside for user in node.users)
        ]
    return returned


def _unusable(name: str, outputs: list[fx.Node]) -> str:
    """Why a module cannot be explained, empty if it can."""
    if not outputs:
        return "its output never reaches the prediction"
    if len(outputs) > 1:
        return f"it returns {len(outputs)} tensors, expected one"
    shape = outputs[0].meta["val"].shape
    if len(shape) < 3:
        return f"its output has no spatial axes, its shape is (B, {', '.join(map(str, shape[1:]))})"
    if len(shape) == 3:
        return (
            "its output is a row of tokens (B, T, C), which this version does not lay out as a grid"
        )
    if all(_hint(size) == 1 for size in shape[2:]):
        return "its output is 1 x 1, there is nothing to map"
    return ""


def _behind_global_pools(graph: fx.Graph) -> set[fx.Node]:
    """Values made of globally pooled ones alone, not the product of such a one with a map."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = [value for value in node.all_input_nodes if value.op != "get_attr"]
        if node.target in _GLOBAL_POOLS or (inputs and all(value in found for value in inputs)):
            found.add(node)
    return found


def _hint(size: int | torch.SymInt) -> int:
    """The size at the example image."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else size  # type: ignore[arg-type]
