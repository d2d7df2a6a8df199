"""State: what a model changes while it answers, and is to find again as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """While it lasts, a model may change its buffers; then they are put back, bit by bit."""
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


def without_writes(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph without what a model writes into its inputs or buffers behind its answer."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        if node.args[0].op in ("placeholder", "get_attr") and not node.users:
            graph.graph.erase_node(node)
    return graph
