"""Annotations: the boxes that people have drawn, as COCO's JSON or VOC's XML states them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from camcore.card import Card
from camcore.errors import FileError, InputError


@dataclass(frozen=True)
class AnnotatedImage:
    """An image, by its name in the annotations, and the objects in it.

    `boxes` are float64 (n, 4), x1, y1, x2, y2 in its pixels, x2 and y2 exclusive; `labels` (n,)
    index the categories; `ignored` (n,) are crowds and what is said to be difficult, which are
    neither to be found nor wrong to find. `size` is height and width, None where nobody says.
    """

    name: str
    path: Path
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    size: tuple[int, int] | None = None

    def boxes_of(self, label: int) -> NDArray[np.float64]:
        """The boxes of a category that are to be found."""
        wanted: NDArray[np.float64] = self.boxes[(self.labels == label) & ~self.ignored]
        return wanted

    @property
    def present(self) -> list[int]:
        """The categories of which something is to be found, in order."""
        return sorted({int(label) for label in self.labels[~self.ignored]})


@dataclass(frozen=True)
class Annotations:
    """Images with their objects, and the names of the categories that the labels index."""

    images: Sequence[AnnotatedImage]
    categories: tuple[str, ...]


def read_annotations(path: Path, images: Path) -> Annotations:
    """The annotations of the images in a folder: a COCO JSON file, or a folder of VOC XML files.

    Raises:
        FileError: they cannot be read, or are something else.

    >>> read_annotations(Path("val/instances.json"), Path("val/images"))  # doctest: +SKIP
    """
    return _read_voc(path, images) if path.is_dir() else _read_coco(path, images)


def _read_coco(path: Path, folder: Path) -> Annotations:
    """Source: https://cocodataset.org/#format-data; boxes there are x, y, width, height."""
    expected = "expected a COCO JSON with images, annotations with a bbox, and categories"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # In the order of their ids, as a classifier of them has them.
        categories = sorted(content["categories"], key=lambda category: category["id"])
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        objects: dict[Any, list[tuple[Any, int, bool]]] = {
            image["id"]: [] for image in content["images"]
        }
        for each in content["annotations"]:
            x, y, width, height = each["bbox"]
            box = (x, y, x + width, y + height)
            if not np.isfinite(box).all():
                raise ValueError(f"a bbox of {each['bbox']}")
            for kind, known in (("image", objects), ("category", label_of)):
                number = each[f"{kind}_id"]
                if number not in known:
                    raise ValueError(f"an annotation of {kind} {number!r:.40}, which is not there")
            ignored = bool(each.get("iscrowd", 0))
            objects[each["image_id"]].append((box, label_of[each["category_id"]], ignored))
        images = [
            _annotated(
                folder,
                image["file_name"],
                objects[image["id"]],
                (image["height"], image["width"]) if {"height", "width"} <= set(image) else None,
            )
            for image in content["images"]
        ]
        return Annotations(images, tuple(str(category["name"]) for category in categories))
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}; {expected}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise FileError(f"{path} cannot be read ({problem}); {expected}") from error


def _read_voc(path: Path, folder: Path) -> Annotations:
    """Source: Everingham et al. 2010, http://host.robots.ox.ac.uk/pascal/VOC/; pixels there count
    from 1, and the last one is in the box.
    """
    files = sorted(path.glob("*.xml"))
    expected = "expected VOC's annotations, with objects that have a name and a bndbox"
    if not files:
        raise FileError(f"folder {path} has no .xml files in it; {expected}")
    found = []
    for file in files:
        try:
            root = ET.parse(file).getroot()
            objects = [_voc_object(each) for each in root.iter("object")]
            size = root.find("size")
            stated = (
                None if size is None else (int(_text(size, "height")), int(_text(size, "width")))
            )
            found.append((_text(root, "filename"), objects, stated))
        except OSError as error:
            raise FileError(f"{file} cannot be read: {error.strerror}; {expected}") from error
        except (ET.ParseError, ValueError) as error:
            raise FileError(f"{file} cannot be read ({error}); {expected}") from error
    categories = sorted({name for _, objects, _ in found for _, name, _ in objects})
    images = [
        _annotated(
            folder,
            image,
            [(box, categories.index(name), hard) for box, name, hard in objects],
            stated,
        )
        for image, objects, stated in found
    ]
    return Annotations(images, tuple(categories))


def _voc_object(element: ET.Element) -> tuple[Any, str, bool]:
    edges = element.find("bndbox")
    if edges is None:
        raise ValueError("an object without a bndbox")
    left, top, right, bottom = (
        float(_text(edges, edge)) for edge in ("xmin", "ymin", "xmax", "ymax")
    )
    hard = element.findtext("difficult", "0").strip() == "1"
    return (left - 1, top - 1, right, bottom), _text(element, "name"), hard


def _text(element: ET.Element, name: str) -> str:
    text = element.findtext(name)
    if text is None:
        raise ValueError(f"no {name} in {element.tag}")
    return text.strip()


def _annotated(
    folder: Path,
    name: str,
    objects: Sequence[tuple[Any, int, bool]],
    size: tuple[int, int] | None,
) -> AnnotatedImage:
    return AnnotatedImage(
        name,
        folder / name,
        np.array([box for box, _, _ in objects], dtype=np.float64).reshape(-1, 4),
        np.array([label for _, label, _ in objects], dtype=np.int64),
        np.array([ignored for _, _, ignored in objects], dtype=np.bool_),
        size,
    )


def by_class(annotations: Annotations, card: Card) -> tuple[Annotations, tuple[str, ...]]:
    """The annotations with a file's classes for categories, and the categories it does not know.

    They are matched by name, in any case; where the file carries no names, by their order. Objects
    of unknown categories are left out.

    Raises:
        InputError: none matches, or the file carries no names and their numbers differ.
    """
    known = card.class_names
    if known is None:
        if len(annotations.categories) != card.num_classes:
            raise InputError(
                f"the annotations have {len(annotations.categories)} categories, the file has "
                f"{card.num_classes} classes and carries no names of them; export the model with "
                "class names (--class-names)"
            )
        return annotations, ()
    index = {name.casefold(): number for number, name in reversed([*enumerate(known)])}
    classes = [index.get(name.casefold(), -1) for name in annotations.categories]
    if max(classes, default=-1) < 0:
        raise InputError(
            f"none of the annotations' categories ({_few(annotations.categories)}) is a class of "
            f"the file ({_few(known)})"
        )
    lookup = np.array(classes)
    images = []
    for image in annotations.images:
        labels = lookup[image.labels]
        kept = labels >= 0
        images.append(
            replace(
                image, boxes=image.boxes[kept], labels=labels[kept], ignored=image.ignored[kept]
            )
        )
    unknown = [
        name for name, number in zip(annotations.categories, classes, strict=True) if number < 0
    ]
    return Annotations(images, known), tuple(unknown)


def without_annotations(paths: Sequence[Path]) -> list[AnnotatedImage]:
    """Images of which nobody says what is in them."""
    return [_annotated(path.parent, path.name, [], None) for path in paths]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
