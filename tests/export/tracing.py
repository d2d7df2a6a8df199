"""Explaining one model many times over: what is traced alike is traced once."""

from copy import deepcopy
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, fx, nn

from camcore.export.trace.subject import Subject
from camcore.export.trace.trace import Trace, trace


class Traces:
    """The traces of models, each kept as long as its model."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, dict[Any, Trace]] = WeakKeyDictionary()

    def trace(
        self,
        subject: Subject,
        inputs: tuple[Tensor, ...],
        *,
        dynamic_size: bool | None,
        root: str,
        queries: bool = False,
    ) -> Trace:
        """In place of `trace`: a copy of what was traced of the same question before."""
        target = subject.target
        question = (
            (target.scores, target.explained, subject._output, dynamic_size, queries),
            *((value.shape, value.dtype) for value in inputs),
        )
        known = self._known.setdefault(subject.user_model, {})
        if question not in known:
            known[question] = trace(
                subject, inputs, dynamic_size=dynamic_size, root=root, queries=queries
            )
        return copied(known[question])


def copied(traced: Trace) -> Trace:
    """A graph of the same weights, for what is made of a graph changes it."""
    return replace(traced, graph=fx.GraphModule(traced.graph, deepcopy(traced.graph.graph)))
