"""Families: the kinds of methods, each told by what its kernel needs.

A kind is one file here, which says what it asks of the graph, what explains it, and what it
refuses; and a row in the table. Its eager reference stands apart, in `prove`.
"""

from dataclasses import replace
from typing import get_args

from camcore.errors import InputError
from camcore.export.boxes import check_boxes
from camcore.export.concepts import Factors, check_concepts, find_concept_layer, returning_too
from camcore.export.families import (
    activations,
    attention,
    biases,
    class_weights,
    gradients,
    guided,
    noisy_gradients,
    passes,
    second_order,
)
from camcore.export.families.family import Composed, Family
from camcore.export.request import Request
from camcore.export.trace.trace import Trace
from camcore.methods import Method, Needs
from camcore.scaling import How

FAMILIES: dict[Needs, Family] = {
    "activations": activations.FAMILY,
    "class_weights": class_weights.FAMILY,
    "gradients": gradients.FAMILY,
    "noisy_gradients": noisy_gradients.FAMILY,
    "gradients_and_hessian_products": second_order.FAMILY,
    "bias_gradients": biases.FAMILY,
    "guided_gradients": guided.OF_THE_IMAGE,
    "gradients_and_guided_gradients": guided.WITH_A_LAYER,
    "attention_gradients": attention.FAMILY,
    "ablated_scores": passes.ABLATIONS,
    "masked_scores": passes.CHANNEL_MASKS,
    "point_scores": passes.POINTS,
    "random_mask_scores": passes.RANDOM_MASKS,
}


def family_of(method: Method) -> Family:
    """The kind of a method."""
    return FAMILIES[method.needs]


def compose(request: Request, traced: Trace) -> Composed:
    """What was found, and the body that explains, and looks for concepts where they are wanted."""
    family = family_of(request.method)
    if request.concepts is None:
        return family.compose(request, traced)
    layer, activation = find_concept_layer(request, traced)
    with returning_too(traced.graph, activation):
        found, body = family.compose(request, traced)
    body.factors = Factors(request, layer)
    return replace(found, concepts=layer), body


def check_request(request: Request) -> None:
    """Raises an `InputError` for options that do not go together."""
    method, family = request.method, family_of(request.method)
    if request.combine not in get_args(How):
        raise InputError(f"expected combine to be one of {get_args(How)}, got {request.combine!r}")
    if request.eigen_smooth and method.weights is None:
        raise InputError(
            "eigen_smooth smooths a weighted sum of activations, which "
            f"{method.name} is not: leave it out, or choose another method"
        )
    family.check(request)
    check_boxes(request)
    check_concepts(request)
    if request.stepwise and not family.many_passes:
        raise InputError(
            f"{method.name} takes no many passes that could be taken in steps: leave out stepwise"
        )
