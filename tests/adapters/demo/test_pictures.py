from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcore.adapters import load, overlay
from camcore.adapters.demo import pictures
from camcore.adapters.demo.pictures import Finding
from camcore.adapters.images import prepare
from camcore.errors import FileError

RNG = np.random.default_rng(0)


def finding(height: int, width: int) -> Finding:
    return Finding("star", 1.25, RNG.random((height, width), dtype=np.float32), (0, 0))


def test_find_places_maps_on_the_picture(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    image = RNG.integers(0, 256, (80, 50, 3), dtype=np.uint8)
    array, placement = prepare(image, runner.card.image)
    explanation = runner(array, [2, 1])
    found = pictures.find(runner, image, [2, 1])
    assert [f.name for f in found] == ["boxer", "dog"]
    for i, one in enumerate(found):
        expected = placement.map_to_original(explanation.saliency_map[0, i])
        np.testing.assert_array_equal(one.saliency_map, expected)
        assert one.score == explanation.scores[0, [2, 1][i]]
        assert one.saliency_map[one.peak[1], one.peak[0]] == np.nanmax(expected)


def test_find_takes_the_best_class_by_default(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    (found,) = pictures.find(runner, RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8))
    every = pictures.find(runner, RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8), [0, 1, 2, 3])
    assert len(every) == 4
    assert found.name in {one.name for one in every}


def test_scene_with_large_objects() -> None:
    scene = pictures.scene_with_large_objects(3)
    again = pictures.scene_with_large_objects(3)
    np.testing.assert_array_equal(scene.image, again.image)
    assert len(scene.labels) == 3
    sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
    assert sides.max(axis=1).min() >= pictures.LARGE_OBJECT


def test_strips_of_an_overview_have_one_width() -> None:
    square = RNG.integers(0, 256, (240, 240, 3), dtype=np.uint8)
    wide = RNG.integers(0, 256, (300, 451, 3), dtype=np.uint8)
    exhibits = [
        (square, "a", [finding(240, 240) for _ in range(3)]),
        (wide, "b", [finding(300, 451)]),
    ]
    picture = pictures.overview(exhibits)
    assert picture.shape[1] == 4 * 240 + 3 * overlay.GAP
    # Neither strip ends in the white that `stack` fills with.
    assert (picture[:, -1].min(axis=1) < 255).mean() > 0.95
    strip = picture[picture.shape[0] // 2 :]
    assert (strip[-1, :478].min(axis=1) < 255).all()


def test_stack_fills_with_white() -> None:
    black = np.zeros((10, 20, 3), np.uint8)
    stacked = pictures.stack([black, black[:, :12]])
    assert stacked.shape == (20 + overlay.GAP, 20, 3)
    assert (stacked[10 : 10 + overlay.GAP] == 255).all()
    assert (stacked[10 + overlay.GAP :, 12:] == 255).all()
    assert (stacked == 0).sum() == 3 * 10 * (20 + 12)


def test_small_png_is_smaller_and_close(tmp_path: Path) -> None:
    picture = pictures.scene_with_large_objects(3).image
    pictures.write_small_png(tmp_path / "small.png", picture)
    overlay.write_image(tmp_path / "full.png", picture)
    small = (tmp_path / "small.png").stat().st_size
    assert small < 0.6 * (tmp_path / "full.png").stat().st_size
    with Image.open(tmp_path / "small.png") as opened:
        read = np.asarray(opened.convert("RGB"))
    assert np.abs(read.astype(int) - picture).mean() < 8


def test_small_png_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none/a\.png cannot be written: No such file"):
        pictures.write_small_png(tmp_path / "none" / "a.png", np.zeros((8, 8, 3), np.uint8))
