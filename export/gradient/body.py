"""The body that goes back: a prediction, and the gradient of each class's score at some layers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from camcore.export.body import Body
from camcore.export.cut import Cut
from camcore.export.gradient.gradient import Gradient
from camcore.export.request import Found, Request


class Passed(NamedTuple):
    """What a pass leaves for the way back: the activation of each layer, what the gradient saved,
    and the scores (B, N) that classes are ranked by.
    """

    activations: list[Tensor]
    saved: list[Any]
    ranking: Tensor


class GradientBody(Body[Passed]):
    """Maps from activations and gradients: one head pass, one tail pass, K passes back.

    Args:
        parts: the graph, cut at the first `roots` of the layers.
        gradient: that of the tail, at these and at the others, which lie in it.
    """

    def __init__(
        self, request: Request, found: Found, parts: Cut, roots: int, gradient: Gradient
    ) -> None:
        super().__init__(request, found)
        self.head, self.tail = parts.head, gradient.forward
        self.backward_pass = gradient.backward
        self._repeat_saved = gradient.repeat_saved
        self._roots = roots
        self._saved = len(gradient.batch_axes)

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Passed]:
        crossing = self.head(*inputs)
        observed = list(self.tail(*crossing))
        inner = len(self.layouts) - self._roots
        end = len(observed) - self._saved
        activations = [*crossing[: self._roots], *observed[end - inner : end]]
        returned = observed[: end - inner - 1]
        return returned, Passed(activations, observed[end:], returned[-1])

    def raw_maps(self, seen: Passed, classes: Tensor) -> list[Tensor]:
        found = self._pass_back(seen.saved, classes.t())
        return [
            kernel(activation, gradient).transpose(0, 1)
            for kernel, activation, gradient in zip(
                self._kernels,
                self._channels_first(seen.activations),
                self._by_class(found, classes.t().shape),
                strict=True,
            )
        ]

    def _pass_back(self, saved: Sequence[Any], rows: Tensor) -> Sequence[Tensor]:
        """The gradient at each layer, (n, ...), for n classes in the shape (K, ..., B)."""
        found: Sequence[Tensor] = self.backward_pass(
            rows.reshape(-1), *self._repeat_saved(saved, rows.shape[0])
        )
        return found

    def _by_class(self, found: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
        """The gradient at each layer as (*rows, C, *S)."""
        gradients = self._channels_first(found)
        return [gradient.reshape(*rows, *gradient.shape[1:]) for gradient in gradients]
