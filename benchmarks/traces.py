"""Explaining one model by many methods: tracing, half of the work, is done once."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from torch import Tensor, fx

from camcore.export.trace.subject import Subject
from camcore.export.trace.trace import Trace, trace


class Traces:
    """The traces of one model, kept for the methods that share them."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Trace] = {}

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Within, `explain` traces only what no method has asked for yet."""
        with patch("camcore.export.compose.trace", self._trace):
            yield

    def _trace(
        self,
        subject: Subject,
        inputs: tuple[Tensor, ...],
        *,
        dynamic_size: bool | None,
        root: str,
        queries: bool,
    ) -> Trace:
        asked = subject.target.scores, subject.target.explained, dynamic_size, queries
        if asked not in self._known:
            self._known[asked] = trace(
                subject, inputs, dynamic_size=dynamic_size, root=root, queries=queries
            )
        known = self._known[asked]
        # What is made of a graph changes it: each method has its own, of the same weights.
        return replace(known, graph=fx.GraphModule(known.graph, deepcopy(known.graph.graph)))
