"""Scores: what a model answers to the example, before anything is traced."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camcore.card import Probabilities, default_probabilities
from camcore.export.trace.subject import Subject
from camcore.export.trace.targets import get_target

_TOLERANCE = 1e-3  # of probabilities' sum


def first_answer(subject: Subject, inputs: Sequence[Tensor]) -> Tensor | None:
    """The scores (B, N) that classes are ranked by; None where the model gives none.

    Why it does not is for the trace to tell.
    """
    try:
        with torch.no_grad():
            scores, _ = subject.scores_of(subject.ask(*inputs))
    except Exception:  # somebody else's model
        return None
    return scores


def count_classes(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    target: Any = None,
    output: str | int | None = None,
) -> int | None:
    """How many classes a model scores, by one run of it; None where that run fails.

    The arguments are those of `camcore.export.explain`.

    >>> count_classes(nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), torch.zeros(1, 3, 2, 2))
    7
    """
    inputs = example if isinstance(example, tuple) else (example,)
    answer = first_answer(Subject(model, get_target(target or "logit"), output), inputs)
    return None if answer is None else answer.shape[1]


def find_probabilities(scores: Tensor | None, target: str) -> Probabilities:
    """What makes probabilities of scores (B, N): `Card.probabilities`.

    `scores` where they are probabilities already, as of a model that ends in a softmax: none is
    negative, and the sum over classes is one, which logits are not by chance. Else the target says.
    """
    if scores is None:
        return default_probabilities(target, 0)
    kind = default_probabilities(target, scores.shape[1])
    if kind == "softmax" and bool((scores >= 0).all()):
        sums = scores.float().sum(dim=1)
        if bool(((sums - 1).abs() < _TOLERANCE).all()):
            return "scores"
    return kind
