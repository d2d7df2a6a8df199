"""Explained: a model that explains itself, as a module."""

from collections import namedtuple
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camcore.card import Card
from camcore.errors import InputError
from camcore.export.request import Found, Request


class Explanation(NamedTuple):
    """What an explained classifier returns: the prediction first, then its maps.

    Shapes: scores (B, N), classes (B, K) int64, saliency_map (B, K, H, W) in [0, 1]. A model with
    other outputs, or one asked for boxes, returns a named tuple of all those.
    """

    scores: Tensor
    classes: Tensor
    saliency_map: Tensor


class Explained(nn.Module):
    """A model that returns its prediction and the maps of the classes asked for.

    Called with images (B, C, H, W), the model's other inputs if it has any, queries (Q, D) or
    (B, Q, D) where its target takes some, and optional class ids
    (B or 1, K), int64, where -1 in column k stands for the class with the k-th highest score;
    without ids it explains the best class. An id that is no class's gives an empty map, and -1 in
    `classes`. With `class_ids="best"` or `"all"` it takes no ids. It is an ordinary module, which
    runs eagerly on the model's device and shares its weights; `camcore.export.save` writes it to a
    file.

    `body` does the work, on plain tuples; `card` describes the result, `request` is what was asked
    for, `found` what the graph told of it.
    """

    def __init__(self, body: nn.Module, request: Request, found: Found, card: Card) -> None:
        super().__init__()
        self.body = body
        self.card = card
        self.found = found
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)

    @property
    def request(self) -> Request:
        return self._request[0]

    def __repr__(self) -> str:
        card = self.card
        size = "any size" if card.image.is_any_size else "one size"
        return (
            f"<{type(self).__name__}: {card.method} of {card.model} at {card.layer}, for images of "
            f"{size}; camcore.export.save writes it to a file>"
        )

    def forward(self, image: Tensor, *others: Tensor, class_ids: Tensor | None = None) -> Any:
        expected = len(self.request.inputs) - 1
        if len(others) == expected + 1 and class_ids is None:
            *others, class_ids = others  # type: ignore[assignment]
        if class_ids is not None and not self.card.takes_ids:
            raise InputError(
                f"class_ids were given to a model that explains {self.card.class_ids!r} by itself: "
                "leave them out, or explain with class_ids='required'"
            )
        if self.card.queries is not None and others and others[-1].ndim == 2:
            *others, queries = others  # type: ignore[assignment]
            others = (*others, queries[None])
        length = self.card.queries
        if length is not None and others and others[-1].shape[-1] != length:
            raise InputError(
                f"queries are {tuple(others[-1].shape)}; expected (Q, {length}), or a row for each "
                "image of such, as long as the model's embeddings"
            )
        if class_ids is None:
            class_ids = torch.tensor([self.card.own_ids], device=image.device)
        return _record(self.card.outputs)(*self.body(image, *others, class_ids))


@lru_cache
def _record(names: tuple[str, ...]) -> Callable[..., Any]:
    if names == Explanation._fields:
        return Explanation
    return namedtuple("Explanation", names)


class Detections(NamedTuple):
    """What an explained detector returns of an image: what it finds, and a map of each.

    One that finds more, as masks, returns a named tuple of all that. Shapes: boxes (D, 4) as x1,
    y1, x2, y2 in pixels, labels (D,) int64, scores (D,), and detection_maps (N, H, W) in [0, 1] of
    the first N.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    detection_maps: Tensor


class ExplainedDetector(Explained):
    """A detector that returns what it finds, and the maps of its first `top` detections; or, by a
    method that knows no detection, one `saliency_map` (1, 1, H, W) of the image.

    Called with one image (1, C, H, W) of the example's size.
    """

    def forward(self, image: Tensor, *others: Tensor, class_ids: Tensor | None = None) -> Any:
        if others or class_ids is not None:
            raise InputError(
                "an explained detector takes an image alone: it explains what it finds"
            )
        names = self.card.outputs
        record = Detections if names == Detections._fields else _record(names)
        return record(*self.body(image))
