"""The plan of many passes: how many there are, and how many go through at a time."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from camcore.errors import ExportError
from camcore.export.passes.body import PassesBody
from camcore.export.passes.loops import Size
from camcore.export.request import Plan, Request
from camcore.export.trace.graphs import hint

_IN_FLIGHT = 26_000_000  # bytes
_MOST_AT_ONCE = 32


def make_plan(
    request: Request, body: type[PassesBody[Any]], shape: Sequence[Size], passed: fx.GraphModule
) -> Plan:
    """How the passes are taken.

    Args:
        body: whose passes they are.
        shape: that of the layer's activation, (C, *S).
        passed: the graph that a pass goes through.

    Raises:
        ExportError: the number of passes depends on the image's size, which is free, and they are
            to be taken in steps.
    """
    return Plan(
        chunk=request.options["chunk"] or _choose_chunk(passed),
        passes=fixed_passes(request, body, shape) if request.stepwise else None,
    )


def _choose_chunk(passed: fx.GraphModule) -> int:
    """A number of passes at a time.

    It is a power of two, the largest whose copies of the largest value on a pass's way take up to
    `_IN_FLIGHT`. Runtimes hold several such values at once, and gain little beyond `_MOST_AT_ONCE`.
    """
    largest = _largest_value(passed)
    chunk = _MOST_AT_ONCE
    while chunk > 1 and chunk * largest > _IN_FLIGHT:
        chunk //= 2
    return chunk


def _largest_value(graph: fx.GraphModule) -> int:
    """The bytes of one image's share in the largest value that a graph makes."""
    first = graph.graph.find_nodes(op="placeholder")[0].meta["val"]
    values = [node.meta.get("val") for node in graph.graph.nodes if node.op == "call_function"]
    sizes = [
        math.prod(map(hint, value.shape)) * value.element_size()
        for value in values
        if isinstance(value, Tensor)
    ]
    return max(sizes, default=0) // hint(first.shape[0])


def fixed_passes(request: Request, body: type[PassesBody[Any]], shape: Sequence[Size]) -> int:
    """The number of passes for an activation (C, *S).

    Raises:
        ExportError: it depends on the image's size, which is free.
    """
    channels, *grid = shape
    count = body.count(request, int(channels), grid)
    if not isinstance(count, int):
        raise ExportError(
            f"{request.method.name} takes a pass for each point of the layer, and their number is "
            "not known where height and width are free: leave dynamic_size out, or set it to False"
        )
    return count
