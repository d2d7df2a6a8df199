"""Names of operators, by which onnxruntime's tools know them."""

import re

import onnx

_OWN = re.compile(r"own_\d+")


def name_operators(graph: onnx.GraphProto) -> None:
    """Give every operator a name of its own, unlike any that a tool gives to those that it adds."""
    for number, node in enumerate(graph.node):
        node.name = f"own_{number}"


def is_own(node: onnx.NodeProto) -> bool:
    """Whether it had its name by `name_operators`."""
    return _OWN.fullmatch(node.name) is not None
