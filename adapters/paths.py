"""The paths that `camcore run` reads and writes, checked before anything is computed."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from stat import S_ISDIR

from camcore.errors import FileError, InputError


def picture_paths(output: Path, images: Sequence[Path]) -> list[Path]:
    """One picture per image; in a folder it is named after the image, numbered where names repeat.

    Raises:
        InputError: one file for several images.
        FileError: a name that the file system refuses.

    >>> [path.as_posix() for path in picture_paths(Path("new"), [Path("a/x.jpg"), Path("x.png")])]
    ['new/x.png', 'new/x-2.png']
    """
    if output.suffix and not _is_folder(output):
        if len(images) > 1:
            raise InputError(
                f"--output {output} is one file for {len(images)} images; give a folder"
            )
        return [output]
    paths: dict[Path, None] = {}
    for image in images:
        path, number = output / f"{image.stem}.png", 1
        while path in paths:
            number += 1
            path = output / f"{image.stem}-{number}.png"
        paths[path] = None
    return list(paths)


def check_images(images: Iterable[Path]) -> None:
    """Raises a `FileError` unless all are files that may be read."""
    for image in images:
        if _is_folder(image):
            raise FileError(f"{image} is a folder; give the images in it, as in {image}/*.jpg")
        if not os.access(image, os.F_OK):
            raise FileError(f"{image} does not exist")
        if not os.access(image, os.R_OK):
            raise FileError(f"{image} may not be read; change its permissions")


def check_targets(targets: Iterable[tuple[str, Path]], sources: Iterable[Path]) -> None:
    """Check the files to be written, each given with the option that it comes from.

    Their folders are checked by `check_folder`.

    Raises:
        InputError: one would replace a file that is read, or another that is written.
        FileError: it cannot be written.
    """
    taken = {_place(source): f"would replace {source}, which is read" for source in sources}
    for option, path in targets:
        place = _place(path)
        if place in taken:
            raise InputError(f"{option} {path} {taken[place]}; give another name")
        taken[place] = f"is where {option} goes already"
        if _is_folder(path):
            raise FileError(f"{option} {path} is a folder; give a file")
        if os.access(path, os.F_OK) and not os.access(path, os.W_OK):
            raise FileError(f"{option} {path} cannot be written; change its permissions")


def check_folder(folder: Path, option: str, *, make: bool = False) -> None:
    """Check that files can be written into a folder; with `make`, into one that is yet to be made.

    Raises:
        FileError: there is no such folder, it cannot be made, or it may not be written to.
    """
    there = folder
    # A link that leads nowhere is in the way of a folder.
    while make and not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not os.access(there, os.F_OK):
        raise FileError(f"{option}: there is no folder {folder}; make it first")
    if not _is_folder(there):
        raise FileError(f"{option}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileError(f"{option}: folder {there} cannot be written to; give another")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        FileError: that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"folder {folder} cannot be made: {error.strerror}") from error


def _place(path: Path) -> Path:
    """The path that a path leads to."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise FileError(f"{path} cannot be found: {error}") from error


def _is_folder(path: Path) -> bool:
    """Whether it is one; a folder above it that may not be entered is an error."""
    try:
        return S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # a name that is too long, a loop of links
        raise FileError(f"{path} cannot be found: {error.strerror}") from error
