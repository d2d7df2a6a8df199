"""A node of an ONNX graph, and the error for one that is not read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class NotReadError(Exception):
    """What a node asks for that is not read; whoever runs the node adds its name."""


@dataclass(frozen=True)
class Node:
    """A node: what it is called, which operator it is, in which version, and its attributes.

    `scopes` are the modules that it came from, from outside in, each by its full name.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 20
    scopes: tuple[str, ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or what it is where the file leaves it out."""
        return self.attributes.get(name, default)

    @property
    def results(self) -> int:
        """How many of the outputs somebody may want; optional ones have no name."""
        return sum(map(bool, self.outputs))

    def describe(self) -> str:
        return f"node {self.name!r} ({self.op}, opset {self.opset})"
