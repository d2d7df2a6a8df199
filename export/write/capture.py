"""Capture: an explained module becomes one program, which every format is written from."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from camcore.errors import ExportError
from camcore.export.body import OwnIds
from camcore.export.detectors.seams import unwarned
from camcore.export.explained import Explained, ExplainedDetector
from camcore.export.passes.body import PassesBody, SteppedBody
from camcore.export.trace.collection import no_fake_cache
from camcore.export.trace.graphs import first_line, without_assertions
from camcore.export.trace.pixels import as_pixels
from camcore.export.trace.trace import example_batch
from camcore.export.write.forms import FREE_SIZE_RULES
from camcore.export.write.simplify import simplify
from camcore.export.write.spell_out import spell_out

aten = torch.ops.aten


def capture(explained: Explained) -> ExportedProgram:
    """The explained module as one program of the card's `graph_inputs`, batch and K free."""
    if isinstance(explained, ExplainedDetector):
        return _capture_detector(explained)
    card = explained.card
    body: nn.Module = explained.body
    request = explained.request
    image, *others = map(example_batch, request.inputs)
    image = request.given(image) if request.pixels is None else as_pixels(image)
    most = len(others[-1][0]) if card.queries is not None else card.num_classes
    k = min(2, most) if card.takes_ids else len(card.own_ids)
    class_ids = torch.full((len(image), k), -1, dtype=torch.int64, device=image.device)
    spatial = request.spatial_axes if card.image.is_any_size else ()
    free_image = dict.fromkeys([0, *spatial], Dim.DYNAMIC)
    free_others = [{0: Dim.DYNAMIC} for _ in others]
    if card.queries is not None:
        free_others[-1][1] = Dim.DYNAMIC
    # A model of one class can explain no more than that one.
    free_k = card.takes_ids and k > 1
    free_ids = dict.fromkeys([0, 1] if free_k else [0], Dim.DYNAMIC)
    arguments, free = [image, *others], [free_image, *free_others]
    if card.takes_ids:
        arguments, free = [*arguments, class_ids], [*free, free_ids]
    if card.steps is not None:
        assert isinstance(body, PassesBody)
        body = SteppedBody(body)
        steps = torch.arange(card.steps, device=image.device)
        state = request.inputs[0].new_zeros(card.state_shape(image.shape, k))
        free_axes = {"batch": True, "classes": free_k, "height": spatial, "width": spatial}
        free_state = [axis for axis, name in enumerate(card.state) if free_axes.get(str(name))]
        arguments += [steps, state]
        free += [{0: Dim.DYNAMIC} if card.steps > 1 else {}, dict.fromkeys(free_state, Dim.DYNAMIC)]
    if not card.takes_ids:
        ids = torch.tensor(card.own_ids, device=image.device)
        body = OwnIds(body, ids, position=len(request.inputs))
    # Oblivious of the example's sizes, or K of a model of two classes would be taken for two. But
    # then the sizes of slices, which gradients may be made of, may not be seen to fit; and torch
    # 2.11 forgets them.
    keeps_sizes = torch.__version__ >= "2.12" or isinstance(explained.body, PassesBody)
    ways = [True] if card.takes_ids and k == most else [True, False] if keeps_sizes else [False]
    try:
        with torch.no_grad():
            program = _exported(body, tuple(arguments), (tuple(free),), ways)
            if spatial:
                rewrite(program, partial(spell_out, rules=FREE_SIZE_RULES))
            simplify(program.graph)
    except Exception as error:
        raise ExportError(f"the explained graph cannot be exported: {first_line(error)}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source paths are nobody's business
    return program


def _capture_detector(explained: ExplainedDetector) -> ExportedProgram:
    """An explained detector as one program of its image."""
    any_size = explained.card.image.is_any_size
    free = dict.fromkeys((2, 3), Dim.DYNAMIC) if any_size else {}
    try:
        with torch.no_grad(), unwarned():
            program = _exported(explained.body, explained.request.inputs, (free,), [any_size])
            # They say that more than one thing was found, as in the example.
            without_assertions(program.graph_module)
            simplify(program.graph)
    except Exception as error:
        raise ExportError(
            f"the explained detector cannot be exported: {first_line(error)}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _exported(
    body: nn.Module, arguments: tuple[Tensor, ...], free: Any, ways: Sequence[bool]
) -> ExportedProgram:
    """The program, oblivious of the example's sizes or not: by the first of `ways` that works."""
    for oblivious in ways:
        try:
            with (
                _config.patch(backed_size_oblivious=oblivious),  # type: ignore[attr-defined]
                # It prints, by the page, which inequalities it cannot solve, and goes on without;
                # whether sizes are free is tried.
                errors_alone("torch.fx.experimental.symbolic_shapes"),
                no_fake_cache(),
            ):
                return torch.export.export(body, arguments, dynamic_shapes=free)
        except Exception as error:
            failure = error
    raise failure


@contextmanager
def errors_alone(name: str) -> Iterator[None]:
    """While it lasts, the logger of that name tells of errors alone."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def rewrite(program: ExportedProgram, rewrite: Callable[[fx.Graph], None]) -> None:
    """Rewrite every graph of a program in place: loops have graphs of their own."""
    for part in program.graph_module.modules():
        if isinstance(part, fx.GraphModule):
            rewrite(part.graph)
            part.recompile()
