"""Family: what a kind of method is to the rest, and what several kinds share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from camcore.errors import InputError
from camcore.export.body import Body
from camcore.export.cut import Cut, cut_with_inner, roots_first
from camcore.export.find.grids import check_grids, smaller_gram
from camcore.export.find.layers import find_layers, layer_notes
from camcore.export.request import Found, Request
from camcore.export.trace.trace import Trace

# What was found, and the body that explains it.
Composed = tuple[Found, Body[Any]]


@dataclass(frozen=True)
class Family:
    """A kind of method.

    `compose` finds in the graph what the method asks of it, and makes the body that explains it.
    `check` raises an `InputError` for options that the kind does not take. `takes_layers` says that
    layers may be named; `many_passes`, that it looks at the scores of many masked passes, which can
    be taken in steps; `of_detections`, that it explains what a detector finds, one by one;
    `of_pyramids`, that it explains a detector's image as a whole; `of_matches`, that it runs a
    detector many times, and explains what of its detections is left.
    """

    compose: Callable[[Request, Trace], Composed]
    check: Callable[[Request], None]
    takes_layers: bool = True
    many_passes: bool = False
    of_detections: bool = False
    of_pyramids: bool = False
    of_matches: bool = False


def check_sizes(request: Request) -> None:
    """Raises an `InputError` where maps of several sizes are to stay at their own."""
    if len(request.layers) > 1 and not request.full_size:
        raise InputError(
            f"maps of {len(request.layers)} layers have different sizes and are combined at image "
            "size: leave full_size on, or give one layer"
        )


@dataclass(frozen=True)
class Layers:
    """The layers of a request in a graph that was cut at them.

    Those behind another one come last: they are values inside the tail. `roots` are the others.
    """

    found: Found
    roots: list[fx.Node]
    inner: list[fx.Node]
    parts: Cut


def cut_at_layers(request: Request, traced: Trace) -> Layers:
    """Find the layers of a request, and cut the graph there.

    Raises:
        InputError, ExportError: as `find_layers`, `check_grids` and `cut`.
    """
    layers, activations, layouts = find_layers(traced, request.layers)
    check_grids(traced, layouts)
    order, count = roots_first(activations)
    activations = [activations[n] for n in order]
    layouts = tuple(layouts[n] for n in order)
    found = Found(
        layers=tuple(layers[n] for n in order),
        layouts=layouts,
        place=place_of(request, [layers[n] for n in order]),
        grams=tuple(map(smaller_gram, activations, layouts)),
        notes=layer_notes(traced.graph.graph, [layers[n] for n in order], layouts),
    )
    roots, inner = activations[:count], activations[count:]
    return Layers(found, roots, inner, cut_with_inner(traced.graph, roots, inner))


def place_of(request: Request, layers: Sequence[str]) -> str:
    """What the card calls the layers: as they were named, else as they were found."""
    return ", ".join(request.layers or filter(None, layers)) or "the image"
