import json
from pathlib import Path

import numpy as np
import pytest

from camcore.adapters.demo.dataset import DATASET_SEED, main, write_scenes
from camcore.adapters.demo.scenes import CLASS_NAMES, make_scene
from camcore.adapters.images import read_image


def test_the_boxes_are_those_of_the_scenes(tmp_path: Path) -> None:
    path = write_scenes(tmp_path, 3, size=(100, 120))
    stated = json.loads(path.read_text())
    assert [category["name"] for category in stated["categories"]] == [*CLASS_NAMES]
    for number, image in enumerate(stated["images"]):
        scene = make_scene(np.random.default_rng([DATASET_SEED, number]), size=(100, 120))
        pixels = read_image(tmp_path / "images" / image["file_name"])
        np.testing.assert_array_equal(pixels, scene.image)
        assert pixels.shape[:2] == (image["height"], image["width"])
        own = [each for each in stated["annotations"] if each["image_id"] == image["id"]]
        assert [each["category_id"] - 1 for each in own] == [*scene.labels]
        for each, mask in zip(own, scene.masks, strict=True):
            x, y, width, height = each["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert each["area"] == width * height
    ids = [each["id"] for each in stated["annotations"]]
    assert ids == [*range(1, len(ids) + 1)]


def test_a_larger_set_begins_as_a_smaller_one(tmp_path: Path) -> None:
    for count in (1, 2):
        write_scenes(tmp_path / str(count), count, seed=9)
    one, same = (tmp_path / count / "images" / "000000.png" for count in "12")
    assert one.read_bytes() == same.read_bytes()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--output", str(tmp_path / "new"), "--count", "1", "--side", "96"])
    assert "instances.json and 1 images" in capsys.readouterr().out
    assert read_image(tmp_path / "new" / "images" / "000000.png").shape == (96, 96, 3)
    with pytest.raises(SystemExit, match=r"camcore: .*sides of at least 96"):
        main(["--output", str(tmp_path), "--side", "50"])
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--count", "0"])
