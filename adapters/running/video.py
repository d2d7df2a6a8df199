"""Video: frames in and out, one at a time; sound is left out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camcore.adapters.files import missing
from camcore.adapters.stream import Given
from camcore.errors import FileError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")

# Of those that are written: what OpenCV's own builds encode them with.
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "XVID"}

_FRAMES_A_SECOND = 25.0  # of a video that does not say


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def frame_rate(path: Path) -> float:
    """The frames a second that a video says it has."""
    with _opened(path) as video:
        rate: float = video.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else _FRAMES_A_SECOND


def frame_count(path: Path) -> int:
    """How many frames a video says it has; there may be more or fewer."""
    with _opened(path) as video:
        return max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)


def frames(path: Path) -> Iterator[Given]:
    """The frames of a video in order, RGB, named `clip.mp4#0` and so on.

    Raises:
        FileError: it is no video that OpenCV reads, or has no frames.
    """
    number = 0
    with _opened(path) as video:
        while True:
            there, frame = video.read()
            if not there:
                break
            yield Given(Path(f"{path}#{number}"), np.ascontiguousarray(frame[..., ::-1]))
            number += 1
    if number == 0:
        raise FileError(f"{path} has no frames that OpenCV can read")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise missing(path)
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise FileError(f"{path} is not a video that OpenCV can read")
        yield video
    finally:
        video.release()


def check_video_format(path: Path) -> None:
    """Raises a `FileError` unless videos can be written in the format that the suffix names."""
    if path.suffix.lower() not in _CODECS:
        raise FileError(
            f"{path}: of a video the overlays are written as a video; give a name with "
            f"{', '.join(_CODECS)}"
        )


@contextmanager
def writing_video(path: Path, rate: float) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """What adds RGB pictures of one size to a video, of so many a second.

    Raises:
        FileError: it cannot be written.
    """
    codec = cv2.VideoWriter.fourcc(*_CODECS[path.suffix.lower()])
    video: Any = None

    def write(picture: NDArray[np.uint8]) -> None:
        nonlocal video
        # Most codecs want even sizes.
        even = np.pad(picture, [(0, length % 2) for length in picture.shape[:2]] + [(0, 0)])
        if video is None:
            video = cv2.VideoWriter(str(path), codec, rate, even.shape[1::-1])
        if not video.isOpened():
            raise FileError(f"{path} cannot be written as a video by OpenCV {cv2.__version__}")
        video.write(np.ascontiguousarray(even[..., ::-1]))

    try:
        yield write
    finally:
        if video is not None:
            video.release()
