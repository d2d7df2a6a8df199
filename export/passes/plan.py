"""What is settled before the passes of a method of many: whether they fit, how many at a time."""

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, fx

from camcore.errors import ExportError, InputError
from camcore.export.bodies import Request
from camcore.export.find.grids import Layout
from camcore.export.passes.body import PASSES
from camcore.export.passes.loops import Size, number_of_steps
from camcore.export.trace.trace import hint
from camcore.methods import Method

_IN_FLIGHT = 26_000_000  # bytes
_MOST_AT_ONCE = 32


def choose_chunk(request: Request, model: fx.GraphModule, tail: fx.GraphModule) -> Request:
    """The request with a number of passes at a time, if none was asked for.

    It is a power of two, the largest whose copies of the largest value on a pass's way take up to
    `_IN_FLIGHT`. Runtimes hold several such values at once, and gain little beyond `_MOST_AT_ONCE`.
    """
    if request.options["chunk"] is not None:
        return request
    of_images = request.method.needs in ("masked_scores", "random_mask_scores")
    largest = _largest_value(model if of_images else tail)
    chunk = _MOST_AT_ONCE
    while chunk > 1 and chunk * largest > _IN_FLIGHT:
        chunk //= 2
    return replace(request, options=request.options | {"chunk": chunk})


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


def fixed_passes(request: Request, shape: Sequence[Size]) -> int:
    """The number of passes for an activation (C, *S).

    Raises:
        ExportError: it depends on the image's size, which is free.
    """
    channels, *grid = shape
    count = PASSES[request.method.needs].count(request, int(channels), grid)
    if not isinstance(count, int):
        raise ExportError(
            f"{request.method.name} takes a pass for each point of the layer, and their number is "
            "not known where height and width are free: leave dynamic_size out, or set it to False"
        )
    return count


def plan_steps(request: Request) -> tuple[int | None, tuple[int | str, ...]]:
    """The number of steps, None where passes are not taken in steps, and the axes of the state."""
    if request.passes is None:
        return None, ()
    axes = PASSES[request.method.needs].state_axes
    state = tuple(request.passes if axis == "passes" else axis for axis in axes)
    return int(number_of_steps(request.passes, request.options["chunk"])), state


def check_passes(request: Request) -> None:
    """Raises an `InputError` for options that a method of many passes cannot have."""
    name, options = request.method.name, request.options
    if request.method.needs == "random_mask_scores" and request.layers:
        raise InputError(
            f"{name} takes no layer, for it masks the image; got {', '.join(request.layers)}"
        )
    if request.stepwise and request.aug_smooth:
        raise InputError("stepwise and aug_smooth do not go together: leave out one of them")
    if request.stepwise and len(request.layers) > 1:
        raise InputError(
            f"stepwise takes the passes of one layer in steps, got {', '.join(request.layers)}: "
            "leave it out, or give one layer"
        )
    for option in {"chunk", "channels", "samples", "n_masks", "cells"} & set(options):
        value = options[option]
        is_open = option in ("channels", "chunk") and value is None
        if not is_open and (type(value) is not int or value < 1):
            raise InputError(f"{name} expects {option} to be a whole number above 0, got {value!r}")
    for option in {"ratio", "probability"} & set(options):
        if not 0 < options[option] <= 1:
            raise InputError(
                f"{name} expects a {option} above 0 and at most 1, got {options[option]!r}"
            )


def check_channels(request: Request, layer: str, channels: int) -> None:
    """Raises an `InputError` where more channels are asked for than there are."""
    wanted = request.options.get("channels")
    if wanted is not None and wanted > channels:
        raise InputError(
            f"{request.method.name} is to mask with {wanted} channels, and layer {layer!r} has "
            f"{channels}: give fewer, or None for all of them"
        )


def check_layout(method: Method, layer: str, layout: Layout) -> None:
    """Raises an `ExportError` where a method is not made for such an activation."""
    if method.name == "vit-reciprocam" and layout.kind != "tokens":
        raise ExportError(
            f"vit-reciprocam masks tokens, and layer {layer!r} returns none: choose reciprocam, "
            "with gaussian=True for the same masks"
        )
    if method.name == "rise" and layout.spatial_ndim != 2:
        raise ExportError(
            f"rise masks images (B, C, H, W), got {layout.spatial_ndim} axes of space"
        )
