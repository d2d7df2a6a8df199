"""Clip entries: the road of videos through a file that takes many frames together."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import overlay, paths
from camcore.adapters.results import caption_text, for_show, image_record, maps_of
from camcore.adapters.running.clips import Clip, prepare_clip, read_clip
from camcore.adapters.running.entries import Entry, Task, one_by_one
from camcore.adapters.running.job import Job
from camcore.adapters.running.video import is_video, writing_video


def clip_entries(job: Job, tasks: Iterable[Task]) -> Iterator[Entry]:
    """The entries of clips, in order, with their files written."""
    return one_by_one(tasks, partial(_record, job))


def _record(job: Job, task: Task) -> dict[str, Any]:
    clip = read_clip(task.path, job.spec.depth)
    array, placement = prepare_clip(clip, job.spec)
    explanation = job.explain(array, None)
    record = image_record(task.path, explanation, placement, job.card, job.request.listed)
    record["frames"] = list(clip.numbers)
    raw = maps_of(explanation)
    for each, explained in zip(raw, record["explained"], strict=True):
        if task.maps is not None:
            paths.make_folder(task.maps.parent)
            own = paths.of_class(task.maps, explained["class"])
            overlay.write_map(own, placement.map_to_original(each))
            explained["map"] = str(own)
    if task.picture is not None:
        paths.make_folder(task.picture.parent)
        shown = [placement.map_to_original(for_show(each, job.card)) for each in raw]
        rows = _rows(job, clip, shown, record["explained"])
        if is_video(task.picture):
            with writing_video(task.picture, clip.rate) as write:
                for panels in zip(*rows, strict=True):
                    write(overlay.side_by_side(panels))
        else:
            strips = [overlay.side_by_side(panels) for panels in rows]
            overlay.write_image(task.picture, np.concatenate(strips))
        record["overlay"] = str(task.picture)
    return record


def _rows(
    job: Job, clip: Clip, maps: Sequence[NDArray[Any]], explained: Sequence[dict[str, Any]]
) -> list[list[NDArray[np.uint8]]]:
    """The frames of a clip under the colours of each explained class's maps, with captions."""
    return [
        [
            overlay.caption(
                overlay.heatmap(
                    frame, shown, colormap=job.request.colormap, opacity=job.request.opacity
                ),
                f"{number}: {caption_text(entry)}",
            )
            for number, frame, shown in zip(clip.numbers, clip.frames, of_class, strict=True)
        ]
        for of_class, entry in zip(maps, explained, strict=True)
    ]
