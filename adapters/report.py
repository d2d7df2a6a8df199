"""Report: why a file said this of an image, and not that, as one HTML page."""

import hashlib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import html, overlay, tables
from camcore.adapters.images import Placement, prepare, read_image
from camcore.adapters.results import caption_text, for_show, image_record
from camcore.adapters.runner import Explanation, Runner
from camcore.card import Card
from camcore.errors import InputError
from camcore.methods import METHODS

_WIDTH = 420  # pixels of a picture
_LISTED = 10  # best classes
_STYLE = """
.pictures td { vertical-align: top; padding: .3rem } .pictures img { width: 19rem }
.file td { text-align: left } .red { color: #c00 } .blue { color: #00c }
"""


@dataclass(frozen=True)
class Compared:
    """What a file gave for an image, of the class it is of and of the best of the others.

    `predictions` are those of the image's record with their rank, 1 for the best, and `expected`
    and `rival` two of them; the maps are of the image's size, NaN where the graph saw nothing.
    """

    image: NDArray[np.uint8]
    expected: dict[str, Any]
    rival: dict[str, Any]
    maps: tuple[NDArray[np.float32], NDArray[np.float32]]
    predictions: list[dict[str, Any]]


def compare_classes(runner: Runner, path: Path, expected: int) -> Compared:
    """Run a file on an image and take the maps of the expected class and of the best other one.

    Raises:
        FileError: the image cannot be read.
        InputError: the file does not explain both of the classes.
    """
    card = runner.card
    check_report(card)
    image = read_image(path)
    array, placement = prepare(image, card.image)
    found = runner(array)
    predictions = _predictions(path, found, placement, card)
    rival = next(each["class"] for each in predictions if each["class"] != expected)
    if card.takes_ids:
        found = runner(array, class_ids=[expected, rival])
    given = found.classes[0].tolist()
    missing = [index for index in (expected, rival) if index not in given]
    if missing:
        raise InputError(
            f"the file explains the {card.top} best classes by itself, and class {missing[0]} is "
            "none of them: export the model with --class-ids required"
        )
    entries = {each["class"]: each for each in predictions}
    maps = [
        placement.map_to_original(for_show(found.saliency_map[0, given.index(index)], card))
        for index in (expected, rival)
    ]
    return Compared(image, entries[expected], entries[rival], (maps[0], maps[1]), predictions)


def check_report(card: Card) -> None:
    """Raises an `InputError` for a file of which no two classes can be compared."""
    if card.is_detector:
        raise InputError("a report compares two classes of an image; this file is a detector's")
    if card.num_classes < 2:
        raise InputError("a report compares two classes; the file knows one")


def _predictions(
    path: Path, found: Explanation[Any], placement: Placement, card: Card
) -> list[dict[str, Any]]:
    predictions = image_record(path, found, placement, card, card.num_classes)["predictions"]
    if not predictions:
        raise InputError("the file gives no scores of whole classes, by which a report compares")
    return [{**each, "rank": rank} for rank, each in enumerate(predictions, 1)]


def report_page(file: Path, photo: Path, card: Card, found: Compared) -> str:
    """The page of a comparison: what was said, maps, scores, and what made the file."""
    expected, rival = found.expected, found.rival
    right = expected["rank"] == 1
    best, other = (expected, rival) if right else (rival, expected)
    verdict = f"The best class is {caption_text(best)}, "
    verdict += (
        f"as expected; next comes {caption_text(rival)}."
        if right
        else f"and not {caption_text(expected)}, which comes {_ordinal(expected['rank'])}."
    )
    title = f"{photo.name}: {best['name']}, not {other['name']}"
    parts = [
        f"<p>{escape(verdict)}</p>",
        _pictures(photo, found),
        f"<p>{escape(_likeness(found, card))}</p>",
        "<h2>Scores</h2>",
        _scores(found),
        "<h2>The file</h2>",
        f'<div class="file">{html.table(_file_rows(file, card))}</div>',
    ]
    return html.document(title, parts, _STYLE)


def _ordinal(rank: int) -> str:
    """A rank in words.

    >>> _ordinal(2), _ordinal(11), _ordinal(23)
    ('2nd', '11th', '23rd')
    """
    ending = "th" if rank // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def _pictures(photo: Path, found: Compared) -> str:
    """The image, both maps, and where either is above the other."""
    expected, rival = (escape(str(each["name"])) for each in (found.expected, found.rival))
    image, (first, second) = found.image, found.maps
    shown = [
        (escape(photo.name), image),
        (f"expected: {expected}", overlay.heatmap(image, first)),
        (f"best of the others: {rival}", overlay.heatmap(image, second)),
        (
            f'<span class="red">{expected}</span> against <span class="blue">{rival}</span>',
            overlay.contrast(image, first, second),
        ),
    ]
    heads = "".join(f"<td>{head}</td>" for head, _ in shown)
    cells = "".join(
        f"<td>{html.picture(overlay.shrunk(pixels, _WIDTH), name)}</td>"
        for name, (_, pixels) in zip(("image", "expected", "rival", "contrast"), shown, strict=True)
    )
    return f'<div class="pictures"><table><tr>{heads}</tr><tr>{cells}</tr></table></div>'


def _likeness(found: Compared, card: Card) -> str:
    """How alike the two maps are, and what of that the method does."""
    first, second = (each[np.isfinite(each)] for each in found.maps)
    told = "Both maps are the same." if np.array_equal(first, second) else ""
    if not told and first.std() > 0 and second.std() > 0:
        told = f"The two maps correlate by {np.corrcoef(first, second)[0, 1]:.2f}."
    method = METHODS.get(card.method)
    if method is not None and not method.class_specific:
        told += f" {card.method} gives every class the same map; another method tells them apart."
    if tables.target_of(card) == "finer":
        told += " Each shows what tells its class from those most like it, and not the class alone."
    return told.strip()


def _scores(found: Compared) -> str:
    listed = found.predictions[:_LISTED]
    if found.expected["rank"] > _LISTED:
        listed = [*listed, found.expected]
    probable = listed[0]["probability"] is not None
    rows = [
        [
            str(each["name"]),
            str(each["class"]),
            str(each["rank"]),
            f"{each['score']:.3f}",
            *([f"{each['probability']:.1%}"] if probable else []),
        ]
        for each in listed
    ]
    heads = ["class", "index", "rank", "score", *(["probability"] if probable else [])]
    return html.table(rows, heads)


def _file_rows(file: Path, card: Card) -> list[tuple[str, str]]:
    """What tells the file from all others, and what it says of itself."""
    content = file.read_bytes()
    size = f"{len(content) / 1e6:.2f} MB"
    digest = hashlib.sha256(content).hexdigest()
    return [("file", f"{file.name}, {size}"), ("SHA-256", digest), *tables.card_rows(card).items()]
