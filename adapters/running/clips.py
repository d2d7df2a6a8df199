"""Clips: frames of a video that a file takes together, prepared, and where their maps lie."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.images import prepare
from camcore.adapters.running.clip_placement import ClipPlacement
from camcore.adapters.running.video import frame_rate, frames, is_video
from camcore.adapters.running.volumes import read_numpy
from camcore.card import ImageSpec
from camcore.errors import FileError

# Of frames that came without a video.
_RATE = 10.0


@dataclass(frozen=True)
class Clip:
    """RGB frames, uint8 (T, H, W, 3), their `numbers` in the video, and how many a second."""

    frames: NDArray[np.uint8]
    numbers: tuple[int, ...]
    rate: float


def takes_clips(spec: ImageSpec, path: Path) -> bool:
    """Whether a file of such images takes what is at a path as frames together."""
    return spec.spatial_ndim == 3 and (spec.frames or is_video(path))


def read_clip(path: Path, count: int | None) -> Clip:
    """So many frames of a video, the middle ones of as many parts of equal length; None takes all.

    Of a video file, or of a .npy or .npz of uint8 (T, H, W, 3).

    Raises:
        FileError: it cannot be read, or holds something else, or fewer frames.
    """
    if is_video(path):
        number = sum(1 for _ in frames(path))
        numbers = _spread(path, number, count)
        chosen = set(numbers)
        found = [each.pixels() for n, each in enumerate(frames(path)) if n in chosen]
        return Clip(np.stack(found), numbers, frame_rate(path) * len(numbers) / number)
    values = read_numpy(path)
    if values.dtype != np.uint8 or values.ndim != 4 or values.shape[3] != 3 or 0 in values.shape:
        raise FileError(
            f"{path} holds {values.dtype} {values.shape}; expected the frames of a video, RGB, "
            "uint8 (T, H, W, 3)"
        )
    numbers = _spread(path, len(values), count)
    return Clip(values[list(numbers)], numbers, _RATE)


def _spread(path: Path, number: int, count: int | None) -> tuple[int, ...]:
    """Which of a number of frames are taken.

    Raises:
        FileError: there are fewer than are wanted.
    """
    if count is None:
        return tuple(range(number))
    if number < count:
        raise FileError(f"{path} has {number} frames, the file takes {count}")
    return tuple((2 * n + 1) * number // (2 * count) for n in range(count))


def prepare_clip(clip: Clip, spec: ImageSpec) -> tuple[NDArray[Any], ClipPlacement]:
    """A clip as the graph's input, prepared frame by frame, and where it lies.

    Of shape (1, T, C, H, W) for a spec of frames, else (1, C, T, H, W); uint8 (1, T, H, W, C).

    Raises:
        InputError: as `prepare`.
    """
    of_one = replace(spec, spatial_ndim=2, depth=None, frames=False)
    prepared = [prepare(frame, of_one) for frame in clip.frames]
    array = np.stack([frame for frame, _ in prepared], axis=1)
    if spec.dtype != "uint8" and not spec.frames:
        array = np.ascontiguousarray(array.swapaxes(1, 2))
    return array, ClipPlacement(prepared[0][1], clip.numbers)
