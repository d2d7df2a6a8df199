"""Targets: what of a model's output is explained.

A target turns the explained output into scores (B, N), one for each thing that a class id can ask
for. Its gradient is traced with the model's, so any function of tensors will do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from camcore import targets
from camcore.errors import ExportError, InputError, unknown_name


def _as_it_is(scores: Tensor) -> Tensor:
    return scores


@dataclass(frozen=True)
class Target:
    """`scores` turns the output into (B, N), by which classes are ranked; `explained` turns those
    into what the maps explain. With `takes_everything` the model's whole output is given.

    Where it depends on the class what is explained, `contrast` takes the scores (B, N) and classes
    (B, 1) and gives (B, 1).

    A target with `queries` takes them when the file runs: the function makes scores (B, Q) of
    embeddings (B, D) and queries (B, Q, D).
    """

    name: str
    scores: Callable[[Any], Tensor] = _as_it_is
    explained: Callable[[Tensor], Tensor] = _as_it_is
    contrast: Callable[[Tensor, Tensor], Tensor] | None = None
    takes_everything: bool = False
    queries: Callable[[Tensor, Tensor], Tensor] | None = None


def segmentation(mask: Tensor | None = None) -> Target:
    """For scores per pixel (B, N, *S): each class's, summed over a mask.

    `mask` (*S) is 1 inside and 0 outside, at the size of the model's output; None takes for each
    class the pixels where it is the best.
    """

    def scores(output: Tensor) -> Tensor:
        if output.ndim < 3:
            raise ExportError(
                "the target 'segmentation' wants scores per pixel, (B, N, H, W), got a tensor of "
                f"rank {output.ndim}. Choose another output or another target"
            )
        inside: Tensor = (output == output.amax(dim=1, keepdim=True)) if mask is None else mask
        return (output * inside.detach().to(output)).flatten(2).sum(dim=2)

    return Target("segmentation", scores)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("logit"),
        Target("probability", explained=targets.probability),
        Target("binary", scores=targets.binary),
        Target("value"),
        Target("rest", explained=targets.rest),
        Target("finer", contrast=targets.finer),
        segmentation(),
        Target("similarity", queries=targets.similarity),
        Target("dot", queries=targets.dot),
    )
}


def get_target(
    target: str | Target | Callable[[Any], Tensor], known: Mapping[str, Target] = TARGETS
) -> Target:
    """A target by name, or any function from the model's output to scores (B, N) or (B,).

    A function is given as many rows as the file will be given images: a loss wants
    `reduction="none"`, and a label for each row, as in
    `lambda out: -F.cross_entropy(out, label.expand(out.shape[0]), reduction="none")`.

    Raises:
        UnknownNameError: no such target; the message lists the nearest names.
        InputError: neither a name nor a function.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, str):
        if target not in known:
            raise unknown_name("target", target, known)
        return known[target]
    function: Any = target
    if not callable(function):
        raise InputError(
            f"expected a target's name or a function of the model's output, got {target!r}; names "
            f"are {', '.join(known)}"
        )
    # Called so that nobody takes a function of the name of a target for that target.
    name = f"custom {getattr(function, '__name__', type(function).__name__)}"
    return Target(name, function, takes_everything=True)
