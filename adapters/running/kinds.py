"""Kinds: what is run, images, a video or volumes, and what can be asked of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from camcore.adapters.running.video import is_video
from camcore.adapters.running.volumes import is_volume
from camcore.errors import InputError

Kind = Literal["images", "video", "volumes"]


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


def check_options(kind: Kind, given: Sequence[str]) -> None:
    """Raises an `InputError` where one of the options that were given is for images alone."""
    if kind != "images" and given:
        raise InputError(f"{given[0]} is for images; leave it out for {_NAMES[kind]}")


_NAMES = {"video": "a video", "volumes": "volumes"}
