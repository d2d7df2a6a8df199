"""The body of many passes: it looks at the scores of many masked images or activations.

A pass is told by a number: of a channel, of a point, of a random mask. A chunk of numbers goes
through as one batch, number by number and for each all images, and all classes share the passes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, fx, nn
from torch.func import functional_call

from camcore.export.body import Body, Seen, known
from camcore.export.cut import Cut, repeat_batch
from camcore.export.passes.loops import Resumed, Size, number_of_steps, weights_of
from camcore.export.request import Found, Plan, Request
from camcore.targets import select_classes


class Prediction(NamedTuple):
    """What goes into a model, the activation that it is cut at, and what crosses beside it."""

    inputs: Sequence[Tensor]
    activation: Tensor
    crossing: list[Any]


class PassesBody(Body[Seen]):
    """Raw maps from the scores of many passes, of the tail alone or of the whole model.

    `count`, `observe`, `run_passes` and `maps_of` are a subclass's. What goes from `run_passes` to
    `maps_of` is the *state*, and all that a run leaves to the next one where passes are taken in
    steps; its axes are `state_axes`. `masks_image` says that a pass goes through the whole model.
    """

    state_axes: ClassVar[tuple[str, ...]] = ("passes", "batch", "classes")
    masks_image: ClassVar[bool] = False

    def __init__(self, request: Request, found: Found, parts: Cut) -> None:
        super().__init__(request, found)
        self.head, self.tail = parts.head, parts.tail
        self._batch_axes = parts.batch_axes

    @classmethod
    def at(
        cls, node: fx.Node, parts: Cut, graph: fx.GraphModule, request: Request, found: Found
    ) -> Self:
        """The body for a graph that was cut at a node."""
        return cls(request, found, parts)

    @staticmethod
    def count(request: Request, channels: int, grid: Sequence[Size]) -> Size:
        """The number of passes for activations (B, C, *S)."""
        raise NotImplementedError

    def run_passes(self, seen: Seen, classes: Tensor, resumed: Resumed | None = None) -> Tensor:
        """The state: what is explained of classes (B, K), pass by pass, unless its axes differ."""
        raise NotImplementedError

    def maps_of(self, seen: Seen, state: Tensor) -> Tensor:
        """Raw maps (B, K, *S)."""
        raise NotImplementedError

    @property
    def plan(self) -> Plan:
        assert self._found.plan is not None
        return self._found.plan

    @property
    def steps(self) -> int | None:
        if self.plan.passes is None:
            return None
        return int(number_of_steps(self.plan.passes, self.plan.chunk))

    @property
    def state(self) -> tuple[int | str, ...]:
        if self.plan.passes is None:
            return ()
        return tuple(self.plan.passes if axis == "passes" else axis for axis in self.state_axes)

    def raw_maps(self, seen: Seen, classes: Tensor) -> list[Tensor]:
        return [self.maps_of(seen, self.run_passes(seen, classes))]

    def resume(
        self, given: Sequence[Tensor], class_ids: Tensor, resumed: Resumed
    ) -> tuple[Tensor, ...]:
        """`(*outputs, classes, saliency_map, state)`: the map is right once every step was.

        Boxes and concepts, if asked for, stand before the state.
        """
        inputs = self.request.prepared(given)
        observed, seen = self.observe(inputs)
        classes = select_classes(observed[-1], class_ids)
        state = self.run_passes(seen, known(classes), resumed)
        maps = self.finish([self.maps_of(seen, state)], inputs[0])
        return *self.answer(observed, classes, maps, inputs[0]), state

    def _predict(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Prediction]:
        """The model's `(*outputs, ranking)`, and what passes begin with."""
        activation, *crossing = self.head(*inputs)
        *observed, _ = self.tail(activation, *crossing)
        return observed, Prediction(inputs, activation, crossing)

    def _explained(self, scores: Tensor, classes: Tensor) -> Tensor:
        """What is explained of classes (B, K), (n, B, K), from scores (n B, N) of n passes."""
        contrast = self.request.subject.target.contrast
        batch, k = classes.shape
        by_pass = scores.reshape(-1, batch, scores.shape[1])
        ids = classes.expand(by_pass.shape[0], -1, -1)
        if contrast is None:
            return by_pass.gather(2, ids)
        by_class = by_pass[:, :, None].expand(-1, -1, k, -1).flatten(0, 2)
        return contrast(by_class, ids.reshape(-1, 1)).reshape(-1, batch, k)

    def _score_activations(
        self, weights: Any, activations: Sequence[Tensor], crossing: Any
    ) -> Tensor:
        """Scores (n B, N) of what the tail begins with, (n, B, ...), in the layer's own layout."""
        crossing = repeat_batch(crossing, self._batch_axes, activations[0].shape[0])
        given = (*(values.flatten(0, 1) for values in activations), *crossing)
        scores: Tensor = functional_call(self.tail, weights, given)[-1]
        return scores

    def _model_weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return weights_of(self.head), weights_of(self.tail)

    def _score_images(self, weights: Any, images: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Scores (n B, N) of images (n, B, C, H, W)."""
        of_head, of_tail = weights
        others = repeat_batch(others, [0] * len(others), images.shape[0])
        crossing = functional_call(self.head, of_head, (images.flatten(0, 1), *others))
        scores: Tensor = functional_call(self.tail, of_tail, crossing)[-1]
        return scores


class SteppedBody(nn.Module):
    """A body of many passes that takes them in steps, for whoever wants to see how far it is.

    From `(*inputs, class_ids, steps, state)` to `(*outputs, classes, saliency_map, next_state)`.
    """

    def __init__(self, body: PassesBody[Any]) -> None:
        super().__init__()
        self.body = body

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        *inputs, class_ids, steps, state = values
        return self.body.resume(inputs, class_ids, Resumed(steps, state))
