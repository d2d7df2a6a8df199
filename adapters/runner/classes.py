"""Classes: their indices by name, and what a file's outputs say of each."""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from camcore.card import Card, default_probabilities
from camcore.errors import InputError, UnknownNameError, unknown_name
from camcore.targets import binary, probability

# Those of camcore.export.TARGETS whose classes are the columns of the model's output.
_TARGETS_BY_CLASS = ("logit", "probability", "value", "rest", "finer", "similarity", "dot")
# Whose two classes are made of the one column.
_BINARY = "binary"


def class_indices(card: Card, class_ids: Any, *, depth: int = 2) -> Any:
    """Class ids with indices in the place of names, in lists and by themselves; arrays as they are.

    Lists in more than `depth` others are left to whoever refuses them: a list may hold itself.

    Raises:
        UnknownNameError, InputError: as `class_index`.
    """
    if isinstance(class_ids, str):
        return class_index(card, class_ids)
    if depth and isinstance(class_ids, list | tuple):
        return [class_indices(card, each, depth=depth - 1) for each in class_ids]
    return class_ids


def class_index(card: Card, name: str) -> int:
    """The index of a class given by its name, or by its index written out.

    Raises:
        UnknownNameError: no class has that name; the message lists the nearest.
        InputError: several classes have it.

    >>> image = ImageSpec(None, None)
    >>> card = Card("gradcam", "layer4", image, 2, ("scores",), class_names=("cat", "dog"))
    >>> class_index(card, "dog")
    1
    """
    names = card.class_names or ()
    for same in (str, str.casefold):
        found = [index for index, known in enumerate(names) if same(known) == same(name)]
        if len(found) > 1:
            listed = ", ".join(map(str, found))
            raise InputError(f"{len(found)} classes are called {name!r}: give an index, {listed}")
        if found:
            return found[0]
    try:
        index = int(name)
    except ValueError:
        hint = f"An index from 0 to {card.num_classes - 1} will do too."
        if names:
            raise unknown_name("class", name, names, hint) from None
        raise UnknownNameError(f"class {name!r}: the file carries no class names. {hint}") from None
    if not 0 <= index < card.num_classes:
        raise UnknownNameError(
            f"class {index} does not exist; the file's classes are 0 to {card.num_classes - 1}"
        )
    return index


def class_scores(card: Card, explanation: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """The scores (B, N) of the classes among what a file gave, None where it gives none.

    They are the output that is explained. But a segmentation model gives scores for pixels, and
    some targets make their own scores inside the graph. Where the card does not name the output, it
    is the only one that looks like scores.

    >>> card = Card("gradcam", "layer4", ImageSpec(None, None), 2, ("out", "classes"))
    >>> class_scores(card, {"out": np.array([[0.5, 2.0]]), "classes": np.array([[1]])})
    array([[0.5, 2. ]])
    >>> class_scores(card, {"out": np.zeros((1, 2, 8, 8)), "classes": np.array([[1]])}) is None
    True
    """
    target = _target(card)
    if target not in (*_TARGETS_BY_CLASS, _BINARY):
        return None
    columns = 1 if target == _BINARY else card.num_classes
    names = card.own_outputs if card.explained is None else [card.explained]
    own = [explanation[name] for name in names]
    found = [
        output.reshape(len(output), -1)
        for output in own
        # A model of one value may return (B,).
        if output.ndim < 3 and math.prod(output.shape[1:]) == columns
    ]
    if len(found) != 1:
        return None
    return cast(NDArray[Any], binary(found[0])) if target == _BINARY else found[0]


def class_probabilities(card: Card, scores: NDArray[Any]) -> NDArray[Any] | None:
    """The probabilities (B, N) that scores (B, N) of classes stand for, None where they stand for
    none, as those of a regression.

    The card says how they are made; an older one leaves it to the target: the sigmoid of a yes or
    no and of a single score, the softmax of others.

    >>> card = Card("gradcam", "layer4", ImageSpec(None, None), 2, ("scores", "classes"))
    >>> class_probabilities(card, np.zeros((1, 2)))
    array([[0.5, 0.5]])
    """
    kind = card.probabilities or default_probabilities(_target(card), card.num_classes)
    if kind == "softmax":
        with np.errstate(invalid="ignore"):  # of scores that are not finite
            return cast(NDArray[Any], probability(scores))
    if kind == "sigmoid":
        return cast(NDArray[Any], 0.5 + 0.5 * np.tanh(scores / 2))  # overflows nowhere
    return scores if kind == "scores" else None


def _target(card: Card) -> str:
    return str(card.options.get("target", "logit"))
