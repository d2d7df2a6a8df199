"""Volume entries: the road of volumes through a file, one at a time."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import overlay, paths
from camcore.adapters.results import caption_text, for_show, image_record, maps_of
from camcore.adapters.running.entries import Entry, Task, one_by_one
from camcore.adapters.running.job import Job
from camcore.adapters.running.volumes import (
    Volume,
    map_suffix,
    prepare_volume,
    read_volume,
    slices,
    write_volume_map,
)
from camcore.errors import InputError


def check_takes_volumes(job: Job) -> None:
    """Raises an `InputError` of a file that takes something else."""
    if job.card.image.spatial_ndim != 3:
        raise InputError(
            f"{job.request.file} takes images of {' x '.join(job.card.image.space)}, not volumes"
        )


def volume_entries(job: Job, tasks: Iterable[Task]) -> Iterator[Entry]:
    """The entries of volumes, in order, with their files written."""
    return one_by_one(tasks, partial(_record, job))


def _record(job: Job, task: Task) -> dict[str, Any]:
    volume = read_volume(task.path, job.card.image.channels)
    array, placement = prepare_volume(volume, job.spec)
    explanation = job.explain(array, None)
    record = image_record(task.path, explanation, placement, job.card, job.request.listed)
    maps = [placement.map_to_original(raw) for raw in maps_of(explanation)]
    for saliency_map, explained in zip(maps, record["explained"], strict=True):
        if task.maps is not None:
            paths.make_folder(task.maps.parent)
            own = paths.of_class(task.maps, explained["class"])
            own = own.with_name(own.name.removesuffix(own.suffix) + map_suffix(task.path))
            write_volume_map(own, saliency_map, volume.affine)
            explained["map"] = str(own)
    if task.picture is not None:
        paths.make_folder(task.picture.parent)
        overlay.write_image(task.picture, _picture(job, volume, maps, record))
        record["overlay"] = str(task.picture)
    return record


def _picture(
    job: Job, volume: Volume, maps: Sequence[NDArray[np.float32]], record: dict[str, Any]
) -> NDArray[np.uint8]:
    """The slices through the peak of each explained class's map, with captions, one below the
    other.
    """
    rows = []
    for saliency_map, explained in zip(maps, record["explained"], strict=True):
        peak = explained["peak"]
        middle = np.array(saliency_map.shape) // 2
        point = middle if peak is None else np.array([peak[axis] for axis in "ijk"])
        drawn = slices(
            volume,
            for_show(saliency_map, job.card),
            point,
            colormap=job.request.colormap,
            opacity=job.request.opacity,
        )
        rows.append(overlay.caption(drawn, caption_text(explained)))
    return np.concatenate(rows)
