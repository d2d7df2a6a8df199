import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camcore.adapters.evaluation.annotations import by_class, read_annotations
from camcore.errors import FileError, InputError
from tests.adapters.toy import CARD

COCO = {
    "images": [
        {"id": 7, "file_name": "sub/a.jpg", "height": 20, "width": 30},
        {"id": 3, "file_name": "b.jpg"},
    ],
    "annotations": [
        {"image_id": 7, "category_id": 9, "bbox": [1, 2.5, 3, 4], "iscrowd": 0},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 30, 20], "iscrowd": 1},
    ],
    "categories": [{"id": 9, "name": "Dog"}, {"id": 2, "name": "horse"}],
}


def write_coco(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**COCO, **changes}))
    return path


def test_coco(tmp_path: Path) -> None:
    found = read_annotations(write_coco(tmp_path / "a.json"), Path("photos"))
    assert found.categories == ("horse", "Dog")  # by their ids
    first, second = found.images
    assert (first.name, first.path) == ("sub/a.jpg", Path("photos/sub/a.jpg"))
    assert (first.size, second.size) == ((20, 30), None)
    np.testing.assert_array_equal(first.boxes, [[1, 2.5, 4, 6.5], [0, 0, 30, 20]])
    assert first.labels.tolist() == [1, 0]
    assert first.ignored.tolist() == [False, True]
    assert first.present == [1]  # a crowd is nothing to be found
    assert first.boxes_of(0).shape == (0, 4)
    assert second.boxes.shape == (0, 4)


def test_voc(tmp_path: Path) -> None:
    """The first pixel is 1 there, and the last one is in the box."""
    (tmp_path / "1.xml").write_text(
        "<annotation><filename>1.jpg</filename><size><width>50</width><height>40</height></size>"
        "<object><name>sofa</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>50</xmax><ymax>40</ymax></bndbox><part><name>leg</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        "<object><name>cat</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>20</xmax>"
        "<ymax>25</ymax></bndbox></object></annotation>"
    )
    (image,) = read_annotations(tmp_path, Path("photos")).images
    assert read_annotations(tmp_path, Path("photos")).categories == ("cat", "sofa")
    np.testing.assert_array_equal(image.boxes, [[0, 0, 50, 40], [10, 5, 20, 25]])
    assert image.labels.tolist() == [1, 0]
    assert image.ignored.tolist() == [True, False]
    assert (image.name, image.size) == ("1.jpg", (40, 50))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "expected a COCO JSON"),
        ({"categories": []}, "an annotation of category 9, which is not there"),
        ({"images": []}, "an annotation of image 7, which is not there"),
        ({"annotations": [{"image_id": 1, "category_id": 9, "bbox": [1, 2, 3]}]}, "ValueError"),
        (
            {"annotations": [{"image_id": 7, "category_id": 9, "bbox": [1, 2, 3, math.nan]}]},
            r"a bbox of \[1, 2, 3, nan\]",
        ),
    ],
)
def test_wrong_coco_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_annotations(write_coco(tmp_path / "a.json", **changes), tmp_path)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        read_annotations(tmp_path / "none.json", tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(FileError, match="RecursionError"):
        read_annotations(tmp_path / "deep.json", tmp_path)
    with pytest.raises(FileError, match=r"has no \.xml files"):
        read_annotations(tmp_path, tmp_path)
    for text in ("<annotation>", "<annotation><object><name>a</name></object></annotation>"):
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(FileError, match=r"a\.xml cannot be read"):
            read_annotations(tmp_path, tmp_path)


def test_categories_become_classes_by_their_names(tmp_path: Path) -> None:
    """In any case; what the file does not know is left out, and said."""
    path = write_coco(tmp_path / "a.json")
    annotations = read_annotations(path, tmp_path)
    matched, unknown = by_class(annotations, CARD)  # cat, dog, boxer, 42
    assert unknown == ("horse",)
    assert matched.categories == CARD.class_names
    assert matched.images[0].labels.tolist() == [1]
    np.testing.assert_array_equal(matched.images[0].boxes, [[1, 2.5, 4, 6.5]])
    with pytest.raises(InputError, match="none of the annotations' categories"):
        by_class(annotations, replace(CARD, class_names=("a", "b", "c", "d")))


def test_without_names_their_order_counts(tmp_path: Path) -> None:
    annotations = read_annotations(write_coco(tmp_path / "a.json"), tmp_path)
    nameless = replace(CARD, class_names=None)
    with pytest.raises(InputError, match="2 categories, the file has 4 classes"):
        by_class(annotations, nameless)
    assert by_class(annotations, replace(nameless, num_classes=2)) == (annotations, ())
