import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.progress
import torch
from PIL import Image

from camcore.adapters import Explanation, load
from camcore.adapters.cli.run import SOME_FAILED
from camcore.adapters.images import prepare, read_image
from camcore.card import ImageSpec
from camcore.export import explain, save
from tests.adapters.cli.calls import camcore, done, failed
from tests.adapters.nets import build_two_heads
from tests.adapters.toy import CARD, reference, write_toy


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_json_of_run(toy_folder: Path, photos: list[Path], suffix: str) -> None:
    file = toy_folder / f"toy{suffix}"
    result = json.loads(camcore("run", file, *photos, "--top", "2", "--json", "-").stdout)
    assert result["file"] == str(file)
    assert [entry["image"] for entry in result["images"]] == [str(path) for path in photos]
    for path, entry in zip(photos, result["images"], strict=True):
        image = read_image(path)
        array, placement = prepare(image, CARD.image)
        expected = reference(array, np.array([[-1, -1]]))
        order = np.argsort(-expected.scores[0])[:2]
        assert CARD.class_names is not None
        assert [p["class"] for p in entry["predictions"]] == order.tolist()
        assert [p["name"] for p in entry["predictions"]] == [CARD.class_names[i] for i in order]
        scores = [p["score"] for p in entry["predictions"]]
        np.testing.assert_allclose(scores, expected.scores[0][order], rtol=1e-4, atol=1e-6)
        assert [e["class"] for e in entry["explained"]] == order.tolist()
        assert entry["overlay"] is None
        for explained, saliency_map in zip(
            entry["explained"], expected.saliency_map[0], strict=True
        ):
            y, x = np.unravel_index(saliency_map.argmax(), saliency_map.shape)
            centre = np.array([x + 0.5, y + 0.5])
            peak = placement.points_to_original(centre, saliency_map.shape)
            np.testing.assert_allclose(
                [explained["peak"]["x"], explained["peak"]["y"]], peak, atol=0.06
            )


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_run_of_a_file_that_prepares_the_image_itself(
    toy_folder: Path, uint8_folder: Path, photos: list[Path], tmp_path: Path, suffix: str
) -> None:
    """The same images through the same network give the same, wherever they are normalised."""
    results = []
    for folder in (toy_folder, uint8_folder):
        picture = tmp_path / f"{folder.name}.png"
        arguments = ("--top", "4", "--output", picture, "--json", "-")
        result = camcore("run", folder / f"toy{suffix}", photos[1], *arguments)
        (entry,) = json.loads(result.stdout)["images"]
        assert entry.pop("overlay") == str(picture)
        results.append((entry, read_image(picture).astype(int)))
    (expected, expected_picture), (entry, picture) = results
    for kind in ("predictions", "explained"):
        for one, other in zip(entry.pop(kind), expected.pop(kind), strict=True):
            for figure in ("score", "probability"):
                assert one.pop(figure) == pytest.approx(other.pop(figure), rel=1e-4, abs=1e-6)
            assert one == other
    assert entry == expected
    assert np.abs(picture - expected_picture).max() <= 6  # a step of the colour map


def test_run_prints_a_table(toy_folder: Path, photos: list[Path]) -> None:
    text = done(camcore("run", toy_folder / "toy.onnx", photos[0], "--class", "boxer"))
    assert "photo.png" in text
    assert all(name in text for name in ("cat", "dog", "boxer", "42"))


def test_top_lists_the_best_where_a_class_is_explained(
    toy_folder: Path, photos: list[Path]
) -> None:
    arguments = (toy_folder / "toy.onnx", photos[0], "--class", "boxer", "--top", "3")
    (entry,) = json.loads(camcore("run", *arguments, "--json", "-").stdout)["images"]
    assert len(entry["predictions"]) == 3
    assert [explained["name"] for explained in entry["explained"]] == ["boxer"]


def test_run_writes_json_and_overlay_of_the_named_classes(
    toy_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    picture, record = tmp_path / "overlay.png", tmp_path / "out.json"
    arguments = ("--class", "boxer", "-c", "1", "--output", picture, "--json", record)
    done(camcore("run", toy_folder / "toy.onnx", photos[0], *arguments))
    (entry,) = json.loads(record.read_text())["images"]
    assert [explained["name"] for explained in entry["explained"]] == ["boxer", "dog"]
    assert entry["overlay"] == str(picture)
    # 60 wide, enlarged five times for the caption's sake, twice, and the line between.
    assert read_image(picture).shape[1] == 2 * 300 - 2 * 60 + 4


def test_overlay_shows_the_photo_where_nothing_was_seen(
    toy_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    picture = tmp_path / "overlay.png"
    done(camcore("run", toy_folder / "toy.onnx", photos[0], "-o", picture, "--opacity", "1"))
    image = read_image(photos[0])
    factor = 4
    shown = read_image(picture)[-image.shape[0] * factor :][::factor, ::factor]
    _, placement = prepare(image, CARD.image)
    same = (shown == image).all(-1)
    assert same[: int(placement.top)].all()
    assert same[:, : int(placement.left)].all()
    inside = same[10:40, 10:50]
    assert inside.mean() < 0.1


def test_several_images_go_to_a_folder(
    toy_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "overlays"
    done(camcore("run", toy_folder / "toy.onnx", *photos, "--output", folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "other.png",
        "photo-2.png",
        "photo.png",
    ]


def test_folder_in_one_run_gives_what_single_runs_give(
    toy_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    """In batches or alone, with a broken file among them, and written as it goes."""
    folder = tmp_path / "a"
    for name, photo in zip(("z.PNG", "m.jpg"), photos[1:], strict=True):
        photo.rename(folder / name)
    (folder / "n.png").write_text("no picture")
    (folder / "notes.md").write_text("no picture")
    names = ["m.jpg", "n.png", "photo.png", "z.PNG"]
    lines = tmp_path / "out.jsonl"
    result = camcore("run", toy_folder / "toy.onnx", folder, "--json", lines, "-c", "boxer")
    assert result.exit_code == SOME_FAILED
    assert "camcore: 1 of 4 images failed" in result.stderr
    assert f"{folder / 'n.png'} is not an image that Pillow can read" in result.stderr
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["image"] for record in records] == [str(folder / name) for name in names]
    assert "is not an image" in records.pop(1)["error"]
    assert len({record.pop("run") for record in records}) == 1
    for record in records:
        alone = camcore("run", toy_folder / "toy.onnx", record["image"], "-c", "2", "--json", "-")
        (expected,) = json.loads(alone.stdout)["images"]
        for kind in ("predictions", "explained"):
            for one, other in zip(record[kind], expected[kind], strict=True):
                for figure in ("score", "probability"):
                    assert one.pop(figure) == pytest.approx(other.pop(figure), rel=1e-5)
        assert record == expected


def test_many_images_have_a_line_each(toy_folder: Path, photos: list[Path], tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(["a/photo.png", "other.jpg"] * 6) + "\nnone.png\n\n")
    result = camcore("run", toy_folder / "toy.onnx", listed)
    assert result.exit_code == SOME_FAILED
    assert f"{tmp_path / 'none.png'} does not exist" in result.stderr
    shown = result.stdout.splitlines()
    assert len(shown) == 12
    array, _ = prepare(read_image(photos[2]), CARD.image)
    scores = reference(array, np.array([[-1]])).scores[0]
    best = int(scores.argmax())
    probability = np.exp(scores[best]) / np.exp(scores).sum()
    assert CARD.class_names is not None
    told = f"{CARD.class_names[best]} {probability:.1%} ({scores[best]:.2f})"
    assert shown[1] == f"{photos[2]}: {told}"


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_maps_lie_on_the_pixels_of_the_image(
    toy_folder: Path, photos: list[Path], tmp_path: Path, kind: str
) -> None:
    options = ("--maps", tmp_path / "maps", "--maps-format", kind, "--top", "2", "--json", "-")
    result = camcore("run", toy_folder / "toy.onnx", *photos[:2], *options)
    images = json.loads(result.stdout)["images"]
    written = [explained["map"] for entry in images for explained in entry["explained"]]
    assert sorted(map(str, (tmp_path / "maps").iterdir())) == sorted(written)
    for path, entry in zip(photos[:2], images, strict=True):
        image = read_image(path)
        array, placement = prepare(image, CARD.image)
        maps = reference(array, np.array([[-1, -1]])).saliency_map[0]
        for explained, expected in zip(entry["explained"], maps, strict=True):
            placed = placement.map_to_original(expected)
            if kind == "npy":
                saved = np.load(explained["map"])
                np.testing.assert_allclose(saved, placed, atol=1e-5)
                assert saved.dtype == np.float32
            else:
                saved = np.asarray(Image.open(explained["map"]))
                assert saved.dtype == np.uint16
                levels = np.where(np.isnan(placed), 0, placed * 65535)
                np.testing.assert_allclose(saved, levels, atol=1.5)


def test_full_size_feeds_the_image_as_it_is(
    toy_folder: Path, fixed_size_onnx: Path, photos: list[Path]
) -> None:
    arguments = ("run", toy_folder / "toy.onnx", photos[1], "--json", "-")
    told = {}
    for name, options in (("card", ()), ("whole", ("--full-size",))):
        (entry,) = json.loads(camcore(*arguments, *options).stdout)["images"]
        told[name] = entry["predictions"][0]["score"]
    for name, spec in (("card", CARD.image), ("whole", ImageSpec(None, None))):
        array, _ = prepare(read_image(photos[1]), spec)
        expected = reference(array, np.array([[-1]])).scores.max()
        assert told[name] == pytest.approx(expected, rel=1e-4)
    message = failed(camcore("run", fixed_size_onnx, photos[0], "--full-size"))
    assert "takes images of 24 x 32 alone" in message


def test_overlay_of_many_classes_says_what_it_leaves_out(
    photos: list[Path], tmp_path: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camcore.adapters.overlay._MOST_PANELS", 3)
    options = ("--top", "4", "-o", tmp_path / "o.png")
    result = camcore("run", toy_folder / "toy.onnx", photos[0], *options)
    assert result.exit_code == 0
    assert "overlays show the first 3 of the 4 explained classes" in result.stderr
    assert read_image(tmp_path / "o.png").shape[1] == 3 * 240 + 2 * 4


def test_image_that_is_given_twice(toy_folder: Path, photos: list[Path], tmp_path: Path) -> None:
    arguments = ("--output", tmp_path / "o", "--json", "-")
    result = camcore("run", toy_folder / "toy.onnx", photos[0], photos[0], *arguments)
    first, second = json.loads(result.stdout)["images"]
    assert first.pop("overlay") == str(tmp_path / "o" / "photo.png")
    assert second.pop("overlay") == str(tmp_path / "o" / "photo-2.png")
    assert first == second
    pictures = [read_image(path) for path in (tmp_path / "o").iterdir()]
    np.testing.assert_array_equal(*pictures)


def test_class_that_is_given_by_several_names_is_explained_once(
    toy_folder: Path, photos: list[Path]
) -> None:
    names = [word for name in ("dog", "1", "DOG", "cat", "0", "dog") for word in ("-c", name)]
    result = camcore("run", toy_folder / "toy.onnx", photos[0], *names, "--json", "-")
    (entry,) = json.loads(result.stdout)["images"]
    assert [explained["class"] for explained in entry["explained"]] == [1, 0]


def test_class_name_of_several_classes(photos: list[Path], tmp_path: Path) -> None:
    card = replace(CARD, class_names=("crane", "dog", "boxer", "crane"))
    path = write_toy(tmp_path / "toy.onnx", card)
    message = failed(camcore("run", path, photos[0], "--class", "crane"))
    assert "2 classes are called 'crane': give an index, 0, 3" in message
    text = done(camcore("run", path, photos[0], "--class", "3"))
    assert text.count("crane") == 2


def test_image_that_the_graph_cannot_take_is_named(photos: list[Path], tmp_path: Path) -> None:
    strip = tmp_path / "strip.png"
    Image.fromarray(np.zeros((1, 60_000, 3), np.uint8)).save(strip)
    path = write_toy(tmp_path / "toy.onnx", replace(CARD, image=ImageSpec(None, None, resize=256)))
    message = failed(camcore("run", path, strip), SOME_FAILED)
    assert f"camcore: {strip}: image is 1 x 60000 (height x width), and would be" in message


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_scores_and_maps_that_are_not_finite_stay_json(
    toy_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch, worst: float
) -> None:
    file = toy_folder / "toy.onnx"
    runner = load(file)

    def broken(array: Any, class_ids: Any, progress: Any) -> Any:
        given = runner(array, class_ids)
        scores, saliency_map = given.scores.copy(), np.full_like(given.saliency_map, np.nan)
        scores[0, 2] = worst
        return Explanation({**given, "scores": scores, "saliency_map": saliency_map})

    broken.card = runner.card  # type: ignore[attr-defined]
    broken.seal = runner.seal  # type: ignore[attr-defined]
    monkeypatch.setattr("camcore.adapters.running.job.load", lambda *_, **__: broken)
    text = camcore("run", file, photos[0], "-c", "boxer", "--json", "-").stdout
    assert "NaN" not in text
    assert "Infinity" not in text
    (entry,) = json.loads(text)["images"]
    expected = {"class": 2, "name": "boxer", "score": None, "peak": None, "map": None}
    (explained,) = entry["explained"]
    del explained["probability"]  # of minus infinity it is 0
    assert explained == expected
    assert f"│ {worst:.3f}" in done(camcore("run", file, photos[0], "-c", "boxer"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx", "photo"], "none.onnx does not exist"),
        (["toy", "none.png"], "none.png does not exist"),
        (["toy", "empty"], "folder empty has no images (.png, .jpg"),
        (["toy", "*.gif"], "no file fits *.gif"),
        (["toy", "https://a.org/cat.jpg"], "https://a.org/cat.jpg is a URL, and camcore reads"),
        (["https://a.org/m.onnx", "photo"], "https://a.org/m.onnx is a URL, and camcore reads"),
        (["photo", "photo"], "has the suffix '.png'; expected .onnx, .pt or .pt2"),
        (["toy", "photo", "--class", "boxr"], "unknown class 'boxr'; nearest: boxer"),
        (["toy", "photo", "--class", "7"], "the file's classes are 0 to 3"),
        (["toy", "photo", "--top", "5"], "knows 4 classes"),
        (["toy", "photo", "--in-boxes"], "is for a detector's file, which"),
    ],
)
def test_run_errors(
    toy_folder: Path,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    names = {"toy": str(toy_folder / "toy.onnx"), "photo": str(photos[0])}
    assert message in failed(camcore("run", *(names.get(name, name) for name in arguments)))
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--colormap", "jett"], "unknown colour map 'jett'; nearest: jet"),
        (["--opacity", "2"], "opacity is 2.0; expected 0 to 1"),
        (["--opacity", "nan"], "opacity is nan; expected 0 to 1"),
        (["--output", "o.xyz"], "o.xyz: no image format for suffix '.xyz'; take .png or .jpg"),
        (["--output", "o.h5"], "o.h5 cannot be written as HDF5"),
        (["--output", "file/o.png"], "--output file/o.png: file is a file; give a folder"),
        (["--output", "file"], "--output file: file is a file; give a folder"),
        (["--output", "n" * 300], "cannot be found: File name too long"),
        (["other.jpg", "--output", "o.png"], "one file for 2 images; give a folder"),
        (["--output", "a/photo.png"], "--output a/photo.png would replace a/photo.png, which is"),
        (["other.jpg", "--output", "a"], "--output a/photo.png would replace a/photo.png"),
        (["none.jpg"], "none.jpg does not exist"),
        (["none/"], "none does not exist"),
        (["--json", "none/out.json"], "--json none/out.json: there is no folder none; make it"),
        (["--json", "a"], "--json a is a folder; give a file"),
        (["--json", "toy.onnx"], "--json toy.onnx would replace toy.onnx, which is read"),
        (["--json", "o.png", "--output", "o.png"], "--json o.png is where --output goes already"),
    ],
)
def test_run_refuses_before_the_file_is_loaded(
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("toy.onnx").write_bytes(b"loading this would fail")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert message in failed(camcore("run", "toy.onnx", "a/photo.png", *options))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_json_may_go_over_an_older_one(
    toy_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    record = tmp_path / "out.json"
    record.write_text("old")
    done(camcore("run", toy_folder / "toy.onnx", photos[0], "--json", record))
    assert len(json.loads(record.read_text())["images"]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
def test_run_on_cuda_without_cuda(toy_folder: Path, photos: list[Path]) -> None:
    result = camcore("run", toy_folder / "toy.onnx", photos[0], "--device", "cuda")
    assert "device is 'cuda', but" in failed(result)


def test_run_in_steps_shows_how_far_it_is(
    stepwise_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, float | None]] = []
    plain = rich.progress.Progress.update

    def update(self: rich.progress.Progress, task: Any, **fields: Any) -> None:
        plain(self, task, **fields)
        (own,) = (each for each in self.tasks if each.id == task)
        told.append((own.completed, own.total))

    monkeypatch.setattr(rich.progress.Progress, "update", update)
    file = stepwise_folder / "stepwise.onnx"
    result = camcore("run", file, *photos[1:], "--batch", "1", "--json", "-")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["images"]) == 2
    assert told[0] == (0, 4)
    assert told.count((4, 4)) == 2


def test_overlay_of_maps_at_the_layers_size(
    segmenter_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    """They lie where those at image size lie."""
    pictures = []
    for size in ("image", "feature"):
        picture = tmp_path / f"{size}.png"
        options = ("--class", "sea", "-o", picture, "--opacity", "1", "--colormap", "bone")
        done(camcore("run", segmenter_folder / f"{size}.onnx", photos[1], *options))
        pictures.append(read_image(picture)[-80:].astype(float))
    at_image_size, at_feature_size = pictures
    assert at_image_size.std() > 20
    assert np.abs(at_image_size - at_feature_size).mean() < 8
    assert np.abs(at_image_size - at_feature_size[::-1]).mean() > 16


def test_the_explained_one_of_two_outputs_that_look_alike(
    photos: list[Path], tmp_path: Path
) -> None:
    """Both are scores (B, 3), and the second is asked for."""
    file = tmp_path / "two.onnx"
    model = build_two_heads().eval()
    example = torch.zeros(1, 3, 24, 24)
    spec = ImageSpec(None, None, resize=24, crop=(24, 24))
    explained = explain(model, example, output="breed", image_spec=spec, dynamic_size=False)
    save(explained, file)
    assert re.search(r"target\s.*logit of breed", done(camcore("inspect", file)))
    record = json.loads(camcore("run", file, photos[0], "--json", "-").stdout)
    assert record["output"] == "breed"
    array, _ = prepare(read_image(photos[0]), spec)
    scores = model(torch.from_numpy(array))["breed"][0].tolist()
    found = {entry["class"]: entry["score"] for entry in record["images"][0]["predictions"]}
    assert found == pytest.approx(dict(enumerate(scores)), abs=1e-4)
    (explained,) = record["images"][0]["explained"]
    assert explained["class"] == scores.index(max(scores))
    text = " ".join(done(camcore("run", file, photos[0])).split())
    assert "The model gives species, breed; explained is breed." in text


def test_model_of_several_inputs_is_left_to_python(
    with_table_folder: Path, photos: list[Path]
) -> None:
    file = with_table_folder / "table.onnx"
    message = failed(camcore("run", file, photos[0]))
    assert f"{file} takes table beside the image, which the command line cannot give." in message
    assert f"camcore.adapters.load('{file}')(image, table=...)" in message
    assert "image, table, class_ids" in done(camcore("inspect", file))


def test_threads_reach_the_runtime(
    toy_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return load(*arguments, **options)

    monkeypatch.setattr("camcore.adapters.running.job.load", noted)
    done(camcore("run", toy_folder / "toy.onnx", photos[0], "--threads", "1"))
    assert asked == [{"threads": 1}]
