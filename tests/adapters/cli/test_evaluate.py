import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camcore.adapters import load
from camcore.adapters.evaluation import evaluate as road
from camcore.adapters.evaluation.annotations import read_annotations
from camcore.adapters.images import prepare, read_image
from camcore.metrics import pointing_game
from tests.adapters.cli.calls import camcore, done, failed


def arguments(scenes: Path) -> list[str | Path]:
    return ["--images", scenes / "images", "--annotations", scenes / "instances.json"]


@pytest.fixture(scope="module")
def figures(all_spots: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("figures") / "out.json"
    plot = path.with_suffix(".svg")
    call = [*arguments(scenes), "--json", path, "--plot", plot]
    text = done(camcore("evaluate", all_spots, *call))
    assert plot.read_text().count("<polyline") == 4
    found = json.loads(path.read_text())
    assert f"{found['localisation']['max_box_acc']:.1%}" in text
    assert f"{found['boxes']['mAP']:.1%}" in text
    assert "7 images" in text
    return found


def test_the_pointing_game_is_as_the_kernel_plays_it(
    figures: Any, all_spots: Path, scenes: Path
) -> None:
    """On maps in the image's own pixels, where the file's have others."""
    runner = load(all_spots)
    hits: dict[int, list[bool]] = {}
    for image in read_annotations(scenes / "instances.json", scenes / "images").images:
        array, placement = prepare(read_image(image.path), runner.card.image)
        maps = runner(array).saliency_map[0]
        scale = maps.shape[1] / placement.height
        for label in image.present:
            boxes = image.boxes_of(label) * scale
            hits.setdefault(label, []).append(bool(pointing_game(maps[label], boxes).any()))
    expected = np.mean([np.mean(each) for each in hits.values()])
    assert figures["localisation"]["pointing_game"] == pytest.approx(expected)
    assert figures["localisation"]["objects"] == sum(map(len, hits.values()))
    assert figures["localisation"]["pointing_game_tolerant"] >= expected
    assert 0 < figures["localisation"]["max_box_acc_v2"] < 1
    assert figures["boxes"]["mAP"] is not None


def test_an_interrupted_run_goes_on_where_it_was(
    figures: Any, all_spots: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, path = tmp_path / "out.jsonl", tmp_path / "out.json"
    call = ["evaluate", all_spots, *arguments(scenes), "--predictions", record, "--json", path]
    plain, seen = road.predict_batch, []

    def predict(runner: Any, batch: Any, *others: Any) -> Any:
        if len(seen) >= 4:
            raise KeyboardInterrupt
        seen.extend(each.path.name for each in batch)
        return plain(runner, batch, *others)

    monkeypatch.setattr(road, "predict_batch", predict)
    result = camcore(*call, "--batch", "2")
    assert result.exit_code == 130
    assert len(record.read_text().splitlines()) == 1 + 4
    assert not path.exists()
    half = seen.copy()
    seen[:] = []
    monkeypatch.setattr(
        road,
        "predict_batch",
        lambda runner, batch, *others: (
            seen.extend(each.path.name for each in batch) or plain(runner, batch, *others)
        ),
    )
    assert "going on behind 4 images" in done(camcore(*call))
    assert len(seen) == 3
    assert not set(seen) & set(half)
    assert json.loads(path.read_text()) == figures
    message = failed(camcore(*call, "--above", "0.5"))
    assert "another evaluation (above differ)" in message


def test_images_that_fail_are_told_and_left_out(spots: Path, scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "set")
    (tmp_path / "set" / "images" / "000002.png").write_text("broken")
    (tmp_path / "set" / "images" / "000004.png").unlink()
    path = tmp_path / "out.json"
    result = camcore("evaluate", spots, *arguments(tmp_path / "set"), "--json", path)
    assert result.exit_code == 3
    assert "000002.png is not an image" in result.stderr
    assert "000004.png" in result.stderr
    assert "2 of 7 images were left out" in result.stderr
    assert json.loads(path.read_text())["images"] == 5


def test_a_file_without_boxes_has_no_map(toy_folder: Path, scenes: Path, tmp_path: Path) -> None:
    stated = json.loads((scenes / "instances.json").read_text())
    names = ["cat", "dog", "boxer", "42"]
    for category, name in zip(stated["categories"], names, strict=False):
        category["name"] = name
    (tmp_path / "own.json").write_text(json.dumps(stated))
    call = ["--images", scenes / "images", "--annotations", tmp_path / "own.json"]
    text = done(camcore("evaluate", toy_folder / "toy.onnx", *call))
    assert "finds no boxes" in text
    assert "4 categories that are no class of the file (star, cross, heart, arrow)" in text
    assert "MaxBoxAccV2" in text
    assert "COCO" not in text


def test_wrong_input_is_told(toy_folder: Path, scenes: Path, tmp_path: Path) -> None:
    file = toy_folder / "toy.onnx"
    assert "none of the annotations' categories" in failed(
        camcore("evaluate", file, *arguments(scenes))
    )
    assert "there is no folder" in failed(camcore("evaluate", file, *arguments(tmp_path / "no")))
    call = [*arguments(scenes), "--json", scenes / "instances.json"]
    assert "would replace" in failed(camcore("evaluate", file, *call))


def test_faithfulness_wants_no_annotations(
    spots: Path, all_spots: Path, scenes: Path, tmp_path: Path
) -> None:
    """The same by a file that is told its classes and by one that is not; beside what the model
    itself says of one image.
    """
    found = []
    for file in (spots, all_spots):
        path, record = tmp_path / f"{file.stem}.json", tmp_path / f"{file.stem}.jsonl"
        call = ["--images", scenes / "images", "--faithfulness", "--predictions", record]
        text = done(camcore("evaluate", file, *call, "--json", path))
        assert "7 images" in text
        assert "maps judged" not in text
        found.append(json.loads(path.read_text()))
    one, other = (each["faithfulness"] for each in found)
    assert one == pytest.approx(other, abs=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "spots.jsonl").read_text().splitlines()[1:]]
    drops = [line["faithfulness"]["average_drop"] for line in lines]
    assert one["average_drop"] == pytest.approx(np.mean(drops))
    runner = load(spots)
    image, _ = prepare(read_image(scenes / "images" / lines[3]["image"]), runner.card.image)
    before = runner(image)
    after = runner(image * before.saliency_map)
    p, q = (
        1 / (1 + np.exp(-float(each.scores[0, before.classes[0, 0]]))) for each in (before, after)
    )
    assert drops[3] == pytest.approx(max(p - q, 0) / p, abs=1e-4)


def test_nothing_to_measure(toy_folder: Path, scenes: Path) -> None:
    call = ["--images", scenes / "images"]
    message = failed(camcore("evaluate", toy_folder / "toy.onnx", *call))
    assert "give --annotations, or --faithfulness" in message
    message = failed(camcore("evaluate", toy_folder / "toy.onnx", *call, "--plot", "a.svg"))
    assert "it wants --annotations" in message


def test_a_file_of_the_best_classes_has_average_precision_alone(
    best_spots: Path, scenes: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    text = done(camcore("evaluate", best_spots, *arguments(scenes), "--json", path))
    assert "its boxes alone are evaluated" in text
    assert "pointing game" not in text
    found = json.loads(path.read_text())
    assert found["localisation"]["objects"] == 0
    assert found["boxes"]["mAP50"] is not None
