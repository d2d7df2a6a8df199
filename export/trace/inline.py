"""Inline: what a model runs under a mode of PyTorch that changes nothing of its answer.

`torch.export` keeps such a stretch as a graph of its own, and where that is taken apart later, the
names of the modules in it are lost.
"""

from typing import Any

import torch
from torch import fx

_NO_GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def inline_modes(graph: fx.GraphModule, device: str) -> None:
    """Put what runs under `no_grad`, or under autocast that is off, in its place; in a graph.

    Autocast is off as well where it is meant for another device than the images'.
    """
    for node in list(graph.graph.nodes):
        if node.target is _NO_GRAD:
            _, inner, *inputs = node.args
        elif node.target is _AUTOCAST:
            of_device, _, enabled, _, inner, *inputs = node.args
            if enabled and of_device == device:
                continue
        else:
            continue
        part = graph.get_submodule(inner.target)
        assert isinstance(part, fx.GraphModule)
        inline_modes(part, device)
        _inline(graph, node, part, inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _inline(graph: fx.GraphModule, call: fx.Node, part: fx.GraphModule, inputs: list[Any]) -> None:
    places = dict(zip(part.graph.find_nodes(op="placeholder"), inputs, strict=True))
    for name, module in part.named_children():
        # Stretches of autocast that stay what they are.
        graph.add_submodule(f"{call.name}_{name}", module)
    with graph.graph.inserting_before(call):
        for node in part.graph.nodes:
            if node.op == "get_attr":
                places[node] = graph.graph.get_attr(f"{call.name}_{node.target}")
            elif node.op == "call_function":
                places[node] = graph.graph.node_copy(node, places.__getitem__)
    results: Any
    (results,) = part.graph.output_node().args
    for user in list(call.users):  # each takes one of the results
        user.replace_all_uses_with(places[results[user.args[1]]])
        graph.graph.erase_node(user)
    graph.graph.erase_node(call)
