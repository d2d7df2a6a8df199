"""State: what a model changes while it answers, and is to find again as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import fx, nn

_OF_PYTORCH = vars(nn.Module()).keys()


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """While it lasts, a model may change its buffers and what else its modules hold.

    Then buffers are put back bit by bit, and other attributes as they were, with what lists,
    dictionaries and sets among them held.
    """
    attributes = [(module, _own(module)) for module in model.modules()]
    contents = [
        (value, copy(value))
        for _, own in attributes
        for value in own.values()
        if isinstance(value, list | dict | set)
    ]
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_meta
    ]
    try:
        yield
    finally:
        for module, name, buffer, before in kept:
            module._buffers[name] = buffer
            if not torch.equal(buffer, before):
                # Past autograd, which may have noted the buffer for its way back.
                buffer.data.copy_(before)
        for module, own in attributes:
            for name in _own(module).keys() - own.keys():
                del module.__dict__[name]
            module.__dict__.update(own)
        for value, held in contents:
            value.clear()
            value.extend(held) if isinstance(value, list) else value.update(held)


def _own(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are not PyTorch's own."""
    return {name: value for name, value in vars(module).items() if name not in _OF_PYTORCH}


def without_writes(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph without what a model writes into its inputs or buffers behind its answer."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        if node.args[0].op in ("placeholder", "get_attr") and not node.users:
            graph.graph.erase_node(node)
    return graph
