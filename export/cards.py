"""Cards: what a file says of itself, from what was asked and what was found."""

from dataclasses import replace
from typing import Any

import torch

import camcore
from camcore.card import QUERIES, Card, ImageSpec
from camcore.errors import ExportError
from camcore.export.body import Body
from camcore.export.boxes import PORTS
from camcore.export.concepts import PORTS as CONCEPT_PORTS
from camcore.export.request import Found, Request, describe
from camcore.export.trace.graphs import outputs_of
from camcore.export.trace.subject import name_inputs
from camcore.export.trace.trace import Trace


def describe_classifier(
    request: Request, traced: Trace, found: Found, body: Body[Any], spec: ImageSpec
) -> Card:
    """The card but for what the caller calls the model and its classes."""
    names, explained = _output_names(request)
    sizes = [] if traced.dynamic_size else traced.size
    depth, height, width = [None] * (3 - len(sizes)) + [*sizes]
    subject = request.subject
    others = request.inputs[1:]
    queries = others[-1].shape[2] if subject.takes_queries else None
    further = name_inputs(subject.user_model, len(others) - (queries is not None), names)
    if queries is not None:
        further = (*further, QUERIES)
    return Card(
        method=request.method.name,
        layer=found.place,
        image=replace(
            spec,
            depth=depth,
            height=height,
            width=width,
            spatial_ndim=len(traced.size),
            channels=request.inputs[0].shape[1],
            dtype="float32" if request.pixels is None else "uint8",
            frames=subject.frames,
        ),
        num_classes=classes_of(traced, subject.takes_queries),
        outputs=(*names, "classes", "saliency_map", *_additions(request, found)),
        inputs=("image", *further, *(["class_ids"] if request.takes_ids else [])),
        explained=explained,
        class_ids=request.class_ids,
        top=request.top,
        map_size="image" if request.full_size else "feature",
        options=describe(request, found),
        notes=(*traced.notes, *found.notes),
        steps=body.steps,
        state=body.state,
        boxes=None if request.boxes is None else request.boxes.most,
        concepts=request.concepts,
        queries=queries,
        versions={"camcore": camcore.__version__, "torch": str(torch.__version__)},
    )


def _additions(request: Request, found: Found) -> tuple[str, ...]:
    """The outputs behind the maps."""
    of_boxes = PORTS if request.boxes else ()
    if found.concepts is None:
        return of_boxes
    maps, scores = CONCEPT_PORTS
    return (*of_boxes, maps, *([] if found.concepts.weight is None else [scores]))


def check_ports(card: Card) -> None:
    """Raises an `ExportError` where the model's own names are those that the file adds."""
    additions = {"boxes": (card.boxes, PORTS), "concepts": (card.concepts, CONCEPT_PORTS)}
    for name, (asked, ports) in additions.items():
        found = {*ports} & {*card.inputs, *card.own_outputs}
        if asked is not None and found:
            raise ExportError(
                f"the model itself has inputs or outputs called {sorted(found)}, as a file with "
                f"{name} has. Leave out {name}, or wrap the model in a module that calls them "
                "otherwise"
            )
    taken = {"steps", "state", "next_state"} & {*card.inputs, *card.outputs}
    if card.steps is not None and taken:
        raise ExportError(
            f"the model itself has inputs or outputs called {sorted(taken)}, as a file that takes "
            "its passes in steps has. Leave out stepwise, or wrap the model in a module that calls "
            "them otherwise"
        )


def classes_of(traced: Trace, queries: bool) -> int:
    """The number of scores for each image; 0 where they are those of queries, a free number."""
    shape = outputs_of(traced.graph)[-1].meta["val"].shape
    if queries:
        return 0
    if not isinstance(shape[0], torch.SymInt) or not isinstance(shape[1], int):
        raise ExportError(
            f"what is explained has the shape ({', '.join(map(str, shape))}), expected scores "
            "(B, N): a row for each image, of a number of classes that no size changes"
        )
    return shape[1]


def check_rows(traced: Trace) -> None:
    """Outputs must have a row for each image, where the plain image's is to be told from others."""
    for output in outputs_of(traced.graph)[:-2]:
        shape = output.meta["val"].shape
        if not shape or not isinstance(shape[0], torch.SymInt):
            raise ExportError(
                f"aug_smooth runs six variants of each image in one batch, and the model returns a "
                f"tensor of shape ({', '.join(map(str, shape))}) that has no row for each image. "
                "Leave aug_smooth out, or wrap the model in a module that does not return it"
            )


def _output_names(request: Request) -> tuple[tuple[str, ...], str | None]:
    """The names of the model's own outputs, which only a run of it tells, and the explained one."""
    with torch.no_grad():
        outputs, _, _ = request.subject.answer(*request.inputs)
    return tuple(outputs), request.subject.explained_output(outputs)
