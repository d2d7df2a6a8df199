"""Probes: random images through a part of a graph, whose gradients tell what looks at what."""

import torch
from torch import Tensor, fx

from camcore.export.cut import ancestors
from camcore.export.trace.graphs import hint


def random_inputs(
    graph: fx.GraphModule, generator: torch.Generator, batch: int | None = None
) -> list[Tensor]:
    """Random inputs of a graph, rows of a batch, by default the example's."""
    examples = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
    return [random_like(example, generator, batch) for example in examples]


class Until(fx.Interpreter):
    """Runs a graph as far as one of its values."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node) -> None:
        super().__init__(graph)
        self._node = node

    def value(self, *inputs: Tensor) -> Tensor:
        """The node's value for the graph's inputs."""
        self.args_iter = iter(inputs)
        needed = ancestors(self._node)
        for node in self.module.graph.nodes:  # type: ignore[union-attr]
            if node.op == "placeholder" or node in needed:
                self.env[node] = self.run_node(node)
            if node is self._node:
                break
        found: Tensor = self.env[self._node]
        return found


def random_like(like: Tensor, generator: torch.Generator, batch: int | None = None) -> Tensor:
    """Random values of a traced one's shape and type, in rows of a batch."""
    shape = [hint(size) for size in like.shape]
    if batch is not None:
        shape[0] = batch
    if not like.is_floating_point():
        return torch.randint(2, shape, generator=generator).to(like.device, like.dtype)
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)
