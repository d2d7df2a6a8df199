import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camcore.adapters import load
from camcore.adapters.evaluation import compare as module
from camcore.adapters.evaluation.annotations import (
    Annotations,
    by_class,
    read_annotations,
    without_annotations,
)
from camcore.adapters.evaluation.compare import (
    Compared,
    LeftOut,
    compare,
    compare_file,
    milliseconds,
    readable,
)
from camcore.adapters.evaluation.evaluate import figures
from camcore.adapters.images import read_image
from camcore.errors import ExportError


@pytest.fixture(scope="module")
def stated(spots: Path, scenes: Path) -> Annotations:
    annotations = read_annotations(scenes / "instances.json", scenes / "images")
    return by_class(annotations, load(spots).card)[0]


def copied(spots: Path, folder: Path) -> Path:
    path = folder / "gradcam.onnx"
    path.write_bytes(spots.read_bytes())
    return path


def test_a_file_with_its_costs_figures_and_pictures(
    spots: Path, stated: Annotations, tmp_path: Path
) -> None:
    path = copied(spots, tmp_path)
    shown = [image.path for image in stated.images[:2]]
    found = compare_file(path, stated, shown=shown, seconds=60, faithful=False)
    assert (found.method, found.layer, found.images) == ("gradcam", "features", 7)
    assert found.megabytes == path.stat().st_size / 1e6
    assert found.milliseconds > 0
    again = figures(stated, path.with_suffix(".jsonl"), with_boxes=True)
    assert found.found == again
    assert again["localisation"]["objects"] == sum(len(each.present) for each in stated.images)
    assert again["faithfulness"] is None
    one, other = found.pictures
    assert one.shape == (96, 112, 3)
    assert np.abs(one.astype(int) - read_image(shown[0])).mean() > 5
    assert not np.array_equal(one, other)


def test_when_the_time_is_over_no_image_is_begun(
    spots: Path, stated: Annotations, tmp_path: Path
) -> None:
    """But one there always is. Without annotations what is measured is faithfulness."""
    images = without_annotations([image.path for image in stated.images])
    shown = [images[0].path]
    path = copied(spots, tmp_path)
    found = compare_file(path, Annotations(images, ()), shown=shown, seconds=0, faithful=False)
    assert found.images == 1
    assert found.found["faithfulness"]["adcc"] > 0
    assert found.found["boxes"] is None


def test_a_method_without_a_file_is_left_out(
    spots: Path, stated: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(method: str, path: Path) -> None:
        if method == "legrad":
            raise ExportError("no attention")
        path.write_bytes(spots.read_bytes())

    given: list[Any] = []
    monkeypatch.setattr(module, "compare_file", lambda path, *_, **named: given.append(path))
    rows = list(
        compare(
            ["cam", "legrad", "fem"],
            write,
            tmp_path,
            stated,
            shown=[],
            seconds=1,
            faithful=True,
        )
    )
    assert rows == [None, LeftOut("legrad", "no attention"), None]
    assert [path.name for path in given] == ["cam.onnx", "fem.onnx"]


def test_the_median_of_the_runs_is_told() -> None:
    seconds = iter([0.2, *[0.01] * 4, *[0.03] * 3])
    assert 9 < milliseconds(lambda: time.sleep(next(seconds))) < 30


def test_pictures_are_of_images_that_can_be_read(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("broken")
    paths = [tmp_path / "a.png", *sorted((scenes / "images").iterdir())]
    assert readable(without_annotations(paths), 2) == paths[1:3]


def test_rows_are_plain() -> None:
    assert "pictures" not in repr(Compared("cam", "a", 1.0, 2.0, 3, {}))
