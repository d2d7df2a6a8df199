"""Videos whose frames are explained one at a time."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from camcore.adapters.running.entries import Entry, Steps, Task, entries
from camcore.adapters.running.job import Job
from camcore.adapters.running.video import frame_rate, frames, writing_video


def video_entries(job: Job, path: Path, output: Path | None, steps: Steps) -> Iterator[Entry]:
    """The entries of a video's frames, in order, with their overlays written as a video.

    Raises:
        FileError: one of the two cannot be read or written.
    """
    with nullcontext() if output is None else writing_video(output, frame_rate(path)) as write:
        yield from entries(job, (Task(frame, show=write) for frame in frames(path)), steps)
