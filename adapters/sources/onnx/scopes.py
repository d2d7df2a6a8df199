"""Scopes: the modules that nodes came from, by what exporters leave of their names.

PyTorch's exporter from `torch.export` notes all of them beside each node. Its older one, and
tf2onnx, put them before the name: `/layer4/layer4.1/conv2/Conv`.
"""

import ast
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import onnx

from camcore.adapters.sources.onnx.node import Node

_NOTED = "pkg.torch.onnx.name_scopes"


def scopes_of(node: onnx.NodeProto) -> tuple[str, ...]:
    """The modules that a node came from, from outside in, each by its full name.

    >>> scopes_of(onnx.helper.make_node("Conv", ["x"], ["y"], name="/layer4/layer4.1/conv2/Conv"))
    ('layer4', 'layer4.1', 'layer4.1.conv2')
    """
    noted = next((each.value for each in node.metadata_props if each.key == _NOTED), None)
    if noted is None:
        return _of_path(node.name)
    try:
        names = ast.literal_eval(noted)
    except (ValueError, SyntaxError):
        return ()
    # The last is the node itself.
    return tuple(str(name) for name in names[:-1] if name) if isinstance(names, list) else ()


def _of_path(path: str) -> tuple[str, ...]:
    found: list[str] = []
    last = ""
    for part in path.strip("/").split("/")[:-1]:
        # `layer4.1` inside of `layer4` is named in full already, as far as that goes.
        own = part.removeprefix(f"{last}.")
        last = part
        found.append(f"{found[-1]}.{own}" if found else own)
    return tuple(found)


def with_scopes_between(nodes: Sequence[Node]) -> list[Node]:
    """Nodes without a scope, as of an optimiser, in what those before and behind have in common.

    Else one of them would part the module that it stands in.
    """
    found = list(nodes)
    for n, node in enumerate(nodes):
        if node.scopes:
            continue
        before = next((each.scopes for each in reversed(found[:n]) if each.scopes), ())
        behind = next((each.scopes for each in nodes[n + 1 :] if each.scopes), ())
        common = takewhile(lambda pair: pair[0] == pair[1], zip(before, behind, strict=False))
        found[n] = replace(node, scopes=tuple(scope for scope, _ in common))
    return found
