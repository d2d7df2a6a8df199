"""Which classes of an image are explained, by a file that is told, and by one that is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camcore.card import Card
from camcore.errors import InputError

if TYPE_CHECKING:
    from camcore.adapters.runner import Explanation, Progress, Runner


def check_choice(file: Path, card: Card, classes: Sequence[int], top: int | None) -> None:
    """Raises an `InputError` where a file cannot explain what was asked for."""
    if card.is_detector:
        return
    if top is not None and top > card.num_classes:
        raise InputError(f"--top {top}, but {file} knows {card.num_classes} classes")
    if classes and card.class_ids == "best":
        raise InputError(
            f"--class chooses what is explained, but {file} explains the {card.top} best by "
            "itself: leave it out, or export the model with --class-ids required"
        )


def explain_chosen(
    runner: "Runner",
    image: Any,
    classes: Sequence[int],
    top: int | None,
    progress: "Progress | None",
) -> "Explanation[Any]":
    """The maps of these classes of images, or where there are none of the `top` best of each.

    A file that explains the best by itself explains as many as it does. Of a detector's image they
    are the maps of the detections that have them, of these labels, at most `top`.
    """
    from camcore.adapters.runner import Explanation, class_scores

    if runner.card.is_detector:
        return _chosen_detections(runner(image), classes, top)
    if runner.card.takes_ids:
        return runner(image, class_ids=list(classes) or [-1] * (top or 1), progress=progress)
    explanation = runner(image, progress=progress)
    if runner.card.class_ids == "best":
        return explanation
    if classes:
        chosen = np.tile(np.asarray(classes), (len(explanation.classes), 1))
    else:
        scores = class_scores(runner.card, explanation)
        if scores is None:
            raise InputError(
                "the file explains every class and gives no scores of whole classes that would "
                "tell the best: name some with --class"
            )
        chosen = np.argsort(-scores, axis=1, kind="stable")[:, : top or 1]
    rows = np.arange(len(chosen))[:, None]
    by_class = ["classes", "saliency_map"]
    by_class += ["boxes", "box_scores"] if runner.card.boxes is not None else []
    kept = {name: explanation[name][rows, chosen] for name in by_class}
    return Explanation({**explanation, **kept})


def _chosen_detections(
    found: "Explanation[Any]", labels: Sequence[int], most: int | None
) -> "Explanation[Any]":
    """Of the detections that have maps those with one of the labels, if any are named."""
    from camcore.adapters.results import maps_of
    from camcore.adapters.runner import Explanation

    count = len(maps_of(found))
    kept = np.flatnonzero(np.isin(found["labels"][:count], labels) | (not labels))[:most]
    # The map of the whole image stays as it is.
    return Explanation(
        {name: value if name == "saliency_map" else value[kept] for name, value in found.items()}
    )
