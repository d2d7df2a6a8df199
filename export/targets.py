"""Targets: what of a model's output is explained.

A target turns the explained output into scores (B, N), one for each thing that a class id can ask
for. Its gradient is traced with the model's, so any function of tensors will do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camcore.errors import unknown_name


def _as_it_is(scores: Tensor) -> Tensor:
    return scores


@dataclass(frozen=True)
class Target:
    """`scores` turns the output into (B, N), by which classes are ranked; `explained` turns those
    into what the maps explain. With `takes_everything` the model's whole output is given.
    """

    name: str
    scores: Callable[[Any], Tensor] = _as_it_is
    explained: Callable[[Tensor], Tensor] = _as_it_is
    takes_everything: bool = False


def rest(scores: Tensor) -> Tensor:
    """ReST, 2 z_c - logsumexp z.

    Source: Cai et al. 2025, https://arxiv.org/abs/2501.06261
    """
    return 2 * scores - torch.logsumexp(scores, dim=1, keepdim=True)


def binary(logit: Tensor) -> Tensor:
    """One logit (B, 1) or (B,) as the scores of two classes, no and yes: (B, 2)."""
    logit = logit.reshape(logit.shape[0], -1)
    return torch.cat([-logit, logit], dim=1)


def segmentation(mask: Tensor | None = None) -> Target:
    """For scores per pixel (B, N, *S): each class's, summed over a mask.

    `mask` (*S) is 1 inside and 0 outside, at the size of the model's output; None takes for each
    class the pixels where it is the best.
    """

    def scores(output: Tensor) -> Tensor:
        inside: Tensor = (output == output.amax(dim=1, keepdim=True)) if mask is None else mask
        return (output * inside.detach().to(output)).flatten(2).sum(dim=2)

    return Target("segmentation", scores)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("logit"),
        Target("probability", explained=lambda scores: scores.softmax(dim=1)),
        Target("binary", scores=binary),
        Target("value"),
        Target("rest", explained=rest),
        segmentation(),
    )
}


def get_target(target: str | Target | Callable[[Any], Tensor]) -> Target:
    """A target by name, or any function from the model's output to scores (B, N) or (B,).

    Raises:
        UnknownNameError: no such target; the message lists the nearest names.
    """
    if isinstance(target, Target):
        return target
    if not isinstance(target, str):
        return Target(getattr(target, "__name__", "custom"), target, takes_everything=True)
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)
    return TARGETS[target]
