"""Summary: the figures of an evaluation as rows of text, for a table."""

from collections.abc import Mapping
from typing import Any

# By where a figure stands: what it is called, and what it tells.
FIGURES = {
    ("localisation", "pointing_game"): ("pointing game", "the map's highest point is in a box"),
    ("localisation", "pointing_game_tolerant"): ("with tolerance", "or at most 15 pixels from one"),
    ("localisation", "max_box_acc"): (
        "MaxBoxAcc",
        "IoU of at least 0.5, largest region, best threshold",
    ),
    ("localisation", "max_box_acc_v2"): ("MaxBoxAccV2", "IoU of 0.3, 0.5 and 0.7, any region"),
    ("boxes", "mAP"): ("mAP", "COCO's, IoU from 0.5 to 0.95"),
    ("boxes", "mAP50"): ("mAP at 0.5", "IoU of at least 0.5"),
    ("boxes", "recall_100"): ("recall", "of at most 100 boxes of a class in an image"),
    ("faithfulness", "insertion"): ("insertion", "area as the map's highest pixels come, high"),
    ("faithfulness", "deletion"): ("deletion", "area as the map's highest pixels go, low"),
    ("faithfulness", "average_drop"): ("average drop", "lost where the map weights it, low"),
    ("faithfulness", "increase"): ("increase", "images that gain by that weighting, high"),
    ("faithfulness", "adcc"): ("ADCC", "coherent, small, and little lost, high"),
    ("faithfulness", "road"): ("ROAD", "least less most relevant pixels gone, high"),
    ("faithfulness", "arcc"): ("ARCC", "coherent, small, and a high ROAD, high"),
}


def figure_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What each figure is called, its value, and what it tells; those that are there alone.

    >>> figure_rows({"localisation": {"pointing_game": 0.5}})
    [('pointing game', '50.0%', "the map's highest point is in a box")]
    """
    rows = []
    for (part, name), (title, meaning) in FIGURES.items():
        value = (found.get(part) or {}).get(name)
        if value is not None:
            rows.append((title, f"{value:.1%}", meaning))
    return rows
