"""The paths that `camcore run` reads and writes, checked before anything is computed."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path
from stat import S_ISDIR

from camcore.adapters.files import missing
from camcore.errors import FileError, InputError

# What is taken for an image in a folder; others may be named.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Found:
    """An image file, and its path below the folder, glob or list that it stands for."""

    path: Path
    below: Path


def find_images(given: Iterable[str]) -> list[Path]:
    """The image files that something stands for; see `find_placed_images`."""
    return [found.path for found in find_placed_images(given)]


def find_placed_images(given: Iterable[str]) -> list[Found]:
    """The image files that files, folders, globs and lists (.txt) stand for, in that order.

    Of a folder those in it that have an image's suffix, by name, and none of the folders in it. A
    list has one path a line, relative to the list; what it names is looked at when it is read, as
    one missing file of thousands is no reason to stop. What a glob finds in folders, and a list has
    in them, lies below those.

    Raises:
        FileError: one that was named does not exist, may not be read or is a URL, or a folder, a
        glob or a list has no images.
    """
    found: list[Found] = []
    for text in given:
        path = Path(text)
        if _is_folder(path):
            images = sorted(each for each in path.iterdir() if _looks_like_an_image(each))
            if not images:
                raise FileError(
                    f"folder {path} has no images ({', '.join(IMAGE_SUFFIXES)}) in it; for those "
                    f"in folders in it give '{path}/*/*' or the like"
                )
            found += [Found(each, Path(each.name)) for each in images]
        elif path.suffix.lower() == ".txt":
            found += _listed(path)
        elif has_magic(text) and not os.path.lexists(path):
            # Not every shell does this; a pattern may be absolute, which Path.glob takes none of.
            matches = map(Path, sorted(glob(text, recursive=True)))  # noqa: PTH207
            images = [each for each in matches if not _is_folder(each)]
            if not images:
                raise FileError(f"no file fits {text}")
            root = Path(*takewhile(lambda part: not has_magic(part), path.parts))
            found += [Found(each, each.relative_to(root)) for each in images]
        else:
            check_images([path])
            found.append(Found(path, Path(path.name)))
    return found


def _looks_like_an_image(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not _is_folder(path)


def _listed(path: Path) -> list[Found]:
    """The images that a text file names, one a line."""
    check_images([path])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}; expected one path a line") from error
    names = [Path(line.strip()) for line in lines if line.strip()]
    if not names:
        raise FileError(f"{path} names no images; expected one path a line")
    # One that leads out of the list's folder has no place below it.
    return [
        Found(path.parent / name, Path(name.name) if _leads_out(name) else name) for name in names
    ]


def _leads_out(path: Path) -> bool:
    return path.is_absolute() or ".." in path.parts


def picture_paths(output: Path, names: Sequence[Path]) -> list[Path]:
    """One picture per image; in a folder it is named after the image, numbered where names repeat.

    Raises:
        InputError: one file for several images.
        FileError: a name that the file system refuses.

    >>> [path.as_posix() for path in picture_paths(Path("new"), [Path("a/x.jpg"), Path("x.png")])]
    ['new/a/x.png', 'new/x.png']
    """
    if output.suffix and not _is_folder(output):
        if len(names) > 1:
            raise InputError(
                f"--output {output} is one file for {len(names)} images; give a folder"
            )
        return [output]
    return paths_in(output, names, ".png")


def paths_in(folder: Path, names: Iterable[Path], suffix: str) -> list[Path]:
    """One path per name below a folder, numbered where names repeat.

    >>> [path.as_posix() for path in paths_in(Path("new"), [Path("x.jpg"), Path("x.png")], ".npy")]
    ['new/x.npy', 'new/x-2.npy']
    """
    paths: dict[Path, None] = {}
    for name in names:
        path, number = folder / name.parent / f"{name.stem}{suffix}", 1
        while path in paths:
            number += 1
            path = path.with_name(f"{name.stem}-{number}{suffix}")
        paths[path] = None
    return list(paths)


def of_detection(path: Path, number: int) -> Path:
    """Where the map of a detection goes.

    >>> of_detection(Path("new/x.npy"), 3).as_posix()
    'new/x.detection3.npy'
    """
    return path.with_name(f"{path.stem}.detection{number}{path.suffix}")


def of_concept(path: Path, number: int) -> Path:
    """Where the map of a concept goes.

    >>> of_concept(Path("new/x.npy"), 3).as_posix()
    'new/x.concept3.npy'
    """
    return path.with_name(f"{path.stem}.concept{number}{path.suffix}")


def of_class(path: Path, index: int) -> Path:
    """Where the map of a class goes.

    >>> of_class(Path("new/x.npy"), 242).as_posix()
    'new/x.class242.npy'
    """
    return path.with_name(f"{path.stem}.class{index}{path.suffix}")


def check_images(images: Iterable[Path]) -> None:
    """Raises a `FileError` unless all are files that may be read."""
    for image in images:
        if _is_folder(image):
            raise FileError(f"{image} is a folder; give the images in it, as in {image}/*.jpg")
        if not os.access(image, os.F_OK):
            raise missing(image)
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
