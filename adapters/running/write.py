"""Write: the overlay and the maps of an image, each to the file that it is to have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import overlay, paths
from camcore.adapters.results import concept_maps_of, for_show, maps_of, picture
from camcore.adapters.running.job import Job
from camcore.adapters.stream import Result

# What takes an RGB picture.
Show = Callable[[NDArray[np.uint8]], object]


def write_maps(job: Job, path: Path, result: Result, record: dict[str, Any]) -> None:
    """Write the map of each explained class, and their names into the image's record."""
    paths.make_folder(path.parent)

    def write(own: Path, raw: NDArray[np.float32]) -> None:
        # As values the file's own; grey levels have no others than those in [0, 1].
        values = raw if path.suffix == ".npy" else for_show(raw, job.card)
        overlay.write_map(own, result.placement.map_to_original(values))

    pairs = zip(maps_of(result.explanation), record["explained"], strict=True)
    for number, (raw, explained) in enumerate(pairs):
        if job.card.shares_map:
            own = path
        elif job.card.is_detector:  # of one class there may be several
            own = paths.of_detection(path, number)
        else:
            own = paths.of_class(path, explained["class"])
        explained["map"] = str(own)
        if job.card.shares_map and number > 0:  # written already
            continue
        write(own, raw)
    found = zip(concept_maps_of(result.explanation), record.get("concepts", ()), strict=True)
    for raw, concept in found:
        own = paths.of_concept(path, concept["concept"])
        write(own, raw)
        concept["map"] = str(own)


def write_picture(job: Job, path: Path, result: Result, record: dict[str, Any]) -> str | None:
    """Write the overlay, and its name into the image's record; what it does not show."""
    drawn, note = _drawn(job, result, record, overlay.most_panels(result.image))
    paths.make_folder(path.parent)
    overlay.write_image(path, drawn)
    record["overlay"] = str(path)
    return note


def show_picture(job: Job, show: Show, result: Result, record: dict[str, Any]) -> str | None:
    """Hand on the overlay, which for images of one size is of one size; what it does not show."""
    # A detector finds more in one image than in another.
    most = 1 if job.card.is_detector else overlay.most_panels(result.image)
    drawn, note = _drawn(job, result, record, most)
    show(drawn)
    return note


def _drawn(
    job: Job, result: Result, record: dict[str, Any], most: int
) -> tuple[NDArray[np.uint8], str | None]:
    if job.request.in_boxes or job.card.shares_map:  # all in one
        most = len(record["explained"])
    shown = record["explained"][:most]
    concepts = record.get("concepts", [])[: most - len(shown)]
    drawn = picture(
        result.image,
        result.explanation,
        result.placement,
        job.card,
        shown,
        concepts,
        colormap=job.request.colormap,
        opacity=job.request.opacity,
        in_boxes=job.request.in_boxes,
    )
    if len(shown) < len(record["explained"]):
        count = f"{len(shown)} of the {len(record['explained'])} explained classes"
    elif len(concepts) < len(record.get("concepts", ())):
        count = f"{len(concepts)} of the {len(record['concepts'])} concepts"
    else:
        return drawn, None
    return drawn, f"overlays show the first {count}; --maps writes all, each to a file"
