"""Scores: what a model answers to the example, before anything is traced."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camcore.card import Probabilities, default_probabilities
from camcore.export.trace.subject import Subject
from camcore.export.trace.targets import get_target

_STRONG = 100.0  # standard deviation of noise that no normalised image has


def first_answer(subject: Subject, inputs: Sequence[Tensor]) -> Tensor | None:
    """The scores (B, N) that classes are ranked by; None where the model gives none.

    Why it does not is for the trace to tell.
    """
    try:
        with torch.no_grad():
            _, scores, _ = subject.answer(*inputs)
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


def find_probabilities(
    subject: Subject, inputs: Sequence[Tensor], answer: Tensor | None
) -> Probabilities:
    """What makes probabilities of the scores (B, N) that were the answer: `Card.probabilities`.

    `scores` where they are probabilities already, as of a model that ends in a softmax or a
    sigmoid: they lie in [0, 1], and do so for an image of strong noise as well, which throws logits
    far out. Else the target says.
    """
    kind = default_probabilities(subject.target.name, 0 if answer is None else answer.shape[1])
    if answer is None or kind == "none" or subject.target.name == "binary":
        return kind
    if not _in_unit(answer):
        return kind
    image, *others = inputs
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    strong = first_answer(subject, [(_STRONG * noise).to(image), *others])
    return "scores" if strong is not None and _in_unit(strong) else kind


def _in_unit(scores: Tensor) -> bool:
    return bool(((scores >= 0) & (scores <= 1)).all())
