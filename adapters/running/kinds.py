"""Kinds: what is run, images, a video or volumes, and what can be asked of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from camcore.adapters.running.clips import takes_clips
from camcore.adapters.running.video import is_video
from camcore.adapters.running.volumes import is_volume
from camcore.card import ImageSpec
from camcore.errors import InputError

Kind = Literal["images", "video", "volumes", "clips"]


def kind_of(paths: Sequence[Path]) -> Kind:
    """What files are, by their suffixes.

    Raises:
        InputError: they are of several kinds, or several videos.

    >>> kind_of([Path("a.jpg"), Path("b.png")]), kind_of([Path("scan.nii.gz")])
    ('images', 'volumes')
    """
    videos = [path for path in paths if is_video(path)]
    volumes = [path for path in paths if is_volume(path)]
    if not videos and not volumes:
        return "images"
    if len(volumes) == len(paths):
        return "volumes"
    if len(paths) == 1:
        return "video"
    raise InputError(
        f"{(videos or volumes)[0]} is among {len(paths)} files; give a video alone, and volumes "
        "with volumes alone"
    )


def kind_for(kind: Kind, spec: ImageSpec, paths: Sequence[Path]) -> Kind:
    """What files of a kind are to one that takes such images: to one of videos, clips."""
    clips = kind != "images" and all(takes_clips(spec, path) for path in paths)
    return "clips" if clips else kind


def check_takes_images(spec: ImageSpec, path: Path) -> None:
    """Raises an `InputError` of a file that takes videos frame by frame."""
    if spec.frames:
        raise InputError(
            f"{path} is an image, and the file takes videos of {spec.depth or 'many'} frames: "
            "give a video, or a .npy of frames (T, H, W, 3)"
        )


def check_options(kind: Kind, given: Sequence[str]) -> None:
    """Raises an `InputError` where one of the options that were given is for images alone."""
    if kind != "images" and given:
        raise InputError(f"{given[0]} is for images; leave it out for {_NAMES[kind]}")


_NAMES = {"video": "a video", "volumes": "volumes", "clips": "a video"}
