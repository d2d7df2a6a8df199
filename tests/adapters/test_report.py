import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcore.adapters import load
from camcore.adapters.images import prepare, read_image
from camcore.adapters.report import check_report, compare_classes, report_page
from camcore.errors import InputError
from tests.adapters.toy import CARD
from tests.adapters.untrained import write_spots


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    values = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    Image.fromarray(values).resize((120, 96)).save(path)
    return path


def order(file: Path, photo: Path) -> list[int]:
    """The file's classes, the best first."""
    runner = load(file)
    array, _ = prepare(read_image(photo), runner.card.image)
    return [int(index) for index in np.argsort(-runner(array).scores[0])]


def test_the_expected_class_is_compared_with_the_best_other_one(spots: Path, photo: Path) -> None:
    runner = load(spots)
    best, second, third, *_ = order(spots, photo)
    found = compare_classes(runner, photo, third)
    assert (found.expected["class"], found.expected["rank"]) == (third, 3)
    assert (found.rival["class"], found.rival["rank"]) == (best, 1)
    array, placement = prepare(read_image(photo), runner.card.image)
    maps = runner(array, class_ids=[third, best]).saliency_map[0]
    for given, raw in zip(found.maps, maps, strict=True):
        np.testing.assert_array_equal(given, placement.map_to_original(raw))
    assert compare_classes(runner, photo, best).rival["class"] == second


def test_the_page_says_what_was_found(spots: Path, photo: Path) -> None:
    runner = load(spots)
    best, second, third, *_ = order(spots, photo)
    names = runner.card.class_names
    assert names is not None
    page = report_page(spots, photo, runner.card, compare_classes(runner, photo, third))
    assert f"<h1>photo.png: {names[best]}, not {names[third]}</h1>" in page
    assert f"and not {names[third]} " in page
    assert "which comes 3rd" in page
    assert page.count("data:image/jpeg") == 4
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<td>layer</td><td>features</td>" in page
    right = report_page(spots, photo, runner.card, compare_classes(runner, photo, best))
    assert f"<h1>photo.png: {names[best]}, not {names[second]}</h1>" in right
    assert "as expected" in right


def test_a_file_of_all_classes_gives_the_same(spots: Path, all_spots: Path, photo: Path) -> None:
    _, _, third, *_ = order(spots, photo)
    one, other = (compare_classes(load(path), photo, third) for path in (spots, all_spots))
    for map_one, map_other in zip(one.maps, other.maps, strict=True):
        np.testing.assert_allclose(map_one, map_other, atol=1e-5)


def test_a_file_of_the_best_class_has_no_map_of_others(photo: Path, tmp_path: Path) -> None:
    file = write_spots(tmp_path / "best.onnx", "best", boxes=None)
    with pytest.raises(InputError, match=r"explains the 1 best classes by itself.*--class-ids"):
        compare_classes(load(file), photo, order(file, photo)[2])


def test_files_without_two_classes() -> None:
    with pytest.raises(InputError, match="detector"):
        check_report(replace(CARD, outputs=("boxes", "labels", "scores", "detection_maps")))
    with pytest.raises(InputError, match="knows one"):
        check_report(replace(CARD, num_classes=1))
