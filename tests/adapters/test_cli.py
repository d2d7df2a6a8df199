import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import rich.progress
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from camcore.adapters import Explanation, cli, load
from camcore.adapters.images import prepare, read_image
from camcore.card import Card, ImageSpec
from camcore.errors import ExportError, ProofError
from camcore.export import explain, save
from camcore.export.find.layers import LayerInfo
from camcore.export.trace.targets import TARGETS
from tests.adapters.nets import build_two_heads
from tests.adapters.toy import CARD, reference, write_toy


def camcore(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def failed(result: Result, code: int = 2) -> str:
    """What was printed on standard error, in one line and without a traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("camcore: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.fixture(autouse=True)
def wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as on a wide terminal, so that no text is broken."""
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two photos of one name in two folders, and a third."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a" / "photo.png", tmp_path / "b" / "photo.png", tmp_path / "other.jpg"]
    for path, size in zip(paths, [(50, 60), (80, 45), (40, 40)], strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


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
            assert one.pop("score") == pytest.approx(other.pop("score"), rel=1e-4, abs=1e-6)
            assert one == other
    assert entry == expected
    assert np.abs(picture - expected_picture).max() <= 6  # a step of the colour map


def test_inspect_of_a_file_that_prepares_the_image_itself(uint8_folder: Path) -> None:
    text = done(camcore("inspect", uint8_folder / "toy.onnx"))
    assert "uint8 RGB, any x any (height x width), channels last" in text
    assert "(0.229, 0.224, 0.225), in the graph" in text
    assert "image │ uint8 │ B x H x W x 3" in text


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
    message = failed(camcore("run", path, photos[0], strip))
    assert f"camcore: {strip}: image is 1 x 60000 (height x width), and would be" in message


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_scores_and_maps_that_are_not_finite_stay_json(
    toy_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch, worst: float
) -> None:
    file = toy_folder / "toy.onnx"
    runner = load(file)

    def broken(array: Any, wanted: Any, progress: Any) -> Any:
        given = runner(array, wanted)
        scores, saliency_map = given.scores.copy(), np.full_like(given.saliency_map, np.nan)
        scores[0, 2] = worst
        return Explanation({**given, "scores": scores, "saliency_map": saliency_map})

    broken.card = runner.card  # type: ignore[attr-defined]
    monkeypatch.setattr("camcore.adapters.runner.load", lambda *_: broken)
    text = camcore("run", file, photos[0], "-c", "boxer", "--json", "-").stdout
    assert "NaN" not in text
    assert "Infinity" not in text
    (entry,) = json.loads(text)["images"]
    expected = {"class": 2, "name": "boxer", "score": None, "peak": None}
    assert entry["explained"] == [expected]
    assert f"boxer │ 2 │ {worst:.3f}" in done(camcore("run", file, photos[0], "-c", "boxer"))


def test_names_that_the_terminal_cannot_show(
    toy_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    """Neither a letter that its encoding lacks nor bytes that are no letters end in a traceback."""
    names = ["café.png", "bad\udcff.png"]
    for name in names:
        shutil.copyfile(photos[0], tmp_path / name)
    shown = subprocess.run(
        [sys.executable, "-m", "camcore.adapters.cli", "run", toy_folder / "toy.onnx", *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "caf\\xe9.png" in shown.stdout
    assert "bad\\udcff.png" in shown.stdout


def test_map_that_is_zero_has_no_peak(photos: list[Path], tmp_path: Path) -> None:
    scores, classes = np.array([[1.0, 2.0, 0.0, 0.0]]), np.array([[1]])
    maps = {"scores": scores, "classes": classes, "saliency_map": np.zeros((1, 1, 4, 4))}
    explanation = Explanation(maps)
    _, placement = prepare(read_image(photos[0]), CARD.image)
    result = cli._result(photos[0], explanation, placement, CARD, 3)
    assert result["explained"] == [{"class": 1, "name": "dog", "score": 2.0, "peak": None}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx", "photo"], "none.onnx does not exist"),
        (["toy", "none.png"], "none.png does not exist"),
        (["toy", "."], ". is a folder; give the images in it, as in ./*.jpg"),
        (["toy", "toy"], "is not an image that Pillow can read"),
        (["photo", "photo"], "has the suffix '.png'; expected .onnx, .pt or .pt2"),
        (["toy", "photo", "--class", "boxr"], "unknown class 'boxr'; nearest: boxer"),
        (["toy", "photo", "--class", "7"], "the file's classes are 0 to 3"),
        (["toy", "photo", "--top", "5"], "knows 4 classes"),
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
    (tmp_path / "file").write_text("")
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
        (["b"], "b is a folder; give the images in it"),
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


def test_ctrl_c_stops_a_run(
    endless: Path, photos: list[Path], tmp_path: Path, press_ctrl_c: None
) -> None:
    """While onnxruntime is at work, and will be for weeks."""
    output = tmp_path / "overlay.png"
    result = camcore("run", endless, photos[0], "--output", output)
    assert failed(result, 130) == "camcore: stopped by Ctrl-C\n"
    assert not output.exists()


def test_debug_shows_the_traceback(toy_folder: Path) -> None:
    result = camcore("--debug", "run", toy_folder / "toy.onnx", "none.png")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "FileError"


def test_usage_errors_come_with_code_2() -> None:
    assert camcore("run").exit_code == 2
    assert camcore("explode").exit_code == 2


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_inspect(toy_folder: Path, suffix: str) -> None:
    text = done(camcore("inspect", toy_folder / f"toy{suffix}"))
    for shown in ("gradcam", "features", "4: cat, dog, boxer", "worst 1e-06", "middle 32 x 32"):
        assert shown in text
    assert ("class_ids (optional)" in text) == (suffix == ".onnx")
    assert ("B x K x H x W" in text) == (suffix == ".onnx")


def test_inspect_of_a_damaged_file(toy_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes((toy_folder / "toy.onnx").read_bytes()[:-100])
    assert "cut.onnx" in failed(camcore("inspect", path))


def test_methods_lists_the_registry() -> None:
    from camcore.methods import METHODS

    text = done(camcore("methods"))
    for method in METHODS.values():
        assert method.name in text
        assert method.summary in text
        assert method.paper in text


@pytest.mark.parametrize("command", [None, "export", "run", "inspect", "methods", "layers"])
def test_help_teaches_with_examples(command: str | None) -> None:
    text = done(camcore(*([] if command is None else [command]), "--help"))
    example = {None: "camcore export resnet18", "methods": "what they cost"}
    assert example.get(command, f"• camcore {command} ") in text
    assert ("Exit codes" in text) == (command is None)


_FRESH = """
import sys
from camcore.adapters import cli
photo = sys.argv[1]
helps = [[*command, "--help"] for command in ([], ["export"], ["run"], ["layers"])]
works = [["methods"], ["inspect", "toy.onnx"], ["run", "toy.onnx", photo, "-o", "o.png"]]
for arguments in [*helps, *works]:
    sys.argv = ["camcore", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        assert stop.code == 0, stop.code
    for forbidden in ("torch", "onnx", "torchvision"):
        assert forbidden not in sys.modules, (arguments, forbidden)
    if arguments[0] != "run":
        assert "onnxruntime" not in sys.modules
"""


def test_production_commands_import_neither_torch_nor_onnx(
    photos: list[Path], tmp_path: Path
) -> None:
    write_toy(tmp_path / "toy.onnx")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _FRESH, str(photos[0])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_missing_extra_is_named(
    toy_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("camcore.adapters.sources.build", "camcore.adapters.sources.torchvision"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(name, raising=False)
    message = failed(camcore("layers", "resnet18"))
    assert "needs torchvision, which is not installed: pip install 'camcore[export]'" in message


def test_missing_typer_is_named() -> None:
    code = "import sys; sys.modules['typer'] = None; import camcore.adapters.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("the camcore command needs typer: pip install 'camcore[run]'")


class FakeExport(ModuleType):
    """Stands in for camcore.export, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__("camcore.export")
        self.asked: dict[str, Any] = {}
        self.error: Exception | None = None

    def explain(self, model: torch.nn.Module, example: torch.Tensor, **options: Any) -> str:
        self.asked = {"model": model, "example": example, **options}
        if self.error is not None:
            raise self.error
        return "explained"

    def save(self, explained: str, path: Path) -> Card:
        assert explained == "explained"
        card = replace(CARD, model=self.asked["model_name"], notes=("this [and] that",))
        write_toy(path, card)
        return card

    def list_layers(self, model: torch.nn.Module, example: torch.Tensor) -> Sequence[LayerInfo]:
        self.asked = {"model": model, "example": example}
        return [
            LayerInfo("stem", "Conv2d", (16, 112, 112), True, False, ""),
            LayerInfo("layer4", "Sequential", (512, 7, 7), True, True, "the last one"),
            LayerInfo("fc", "Linear", (1000,), False, False, "no image grid"),
        ]


@pytest.fixture
def fake_export(monkeypatch: pytest.MonkeyPatch) -> FakeExport:
    import camcore as package

    fake = FakeExport()
    monkeypatch.setitem(sys.modules, "camcore.export", fake)
    monkeypatch.setattr(package, "export", fake, raising=False)
    return fake


def test_export_hands_everything_over(fake_export: FakeExport, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    arguments = ("--weights", "none", "--method", "layercam", "--layer", "layer3", "-o", path)
    text = done(camcore("export", "squeezenet1_1", *arguments, "--size", "448", "--fixed-size"))
    assert f"wrote {path}: gradcam of squeezenet1_1 at features" in text
    assert "note: this [and] that" in text
    asked = fake_export.asked
    assert asked.pop("model").training is False
    assert asked.pop("example").shape[1:] == (3, 448, 448)
    assert len(asked.pop("class_names")) == 1000
    assert asked == {
        "method": "layercam",
        "layer": ["layer3"],
        "eigen_smooth": False,
        "aug_smooth": False,
        "normalize": True,
        "full_size": True,
        "stepwise": False,
        "pixels": False,
        "model_name": "squeezenet1_1",
        "image_spec": ImageSpec(None, None, resize=512, crop=(448, 448)),
        "dynamic_size": False,
    }


def test_export_in_steps(fake_export: FakeExport, tmp_path: Path) -> None:
    arguments = ("--weights", "none", "--method", "rise", "--stepwise", "-o", tmp_path / "m.onnx")
    done(camcore("export", "squeezenet1_1", *arguments))
    assert fake_export.asked["stepwise"] is True


def test_run_in_steps_shows_how_far_it_is(
    stepwise_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, float | None]] = []
    plain = rich.progress.Progress.update

    def update(self: rich.progress.Progress, task: Any, **fields: Any) -> None:
        plain(self, task, **fields)
        told.append((self.tasks[task].completed, self.tasks[task].total))

    monkeypatch.setattr(rich.progress.Progress, "update", update)
    result = camcore("run", stepwise_folder / "stepwise.onnx", *photos[1:], "--json", "-")
    assert len(json.loads(result.stdout)["images"]) == 2
    assert told[0] == (0, 4)
    assert told.count((4, 4)) == 2


def test_inspect_tells_steps(stepwise_folder: Path) -> None:
    text = done(camcore("inspect", stepwise_folder / "stepwise.onnx"))
    assert "at image size, in 4 steps" in text
    assert "image, class_ids, steps, state" in text
    assert "11 x batch x k" in text


def test_export_defaults(fake_export: FakeExport, tmp_path: Path) -> None:
    done(camcore("export", "squeezenet1_1", "--weights", "none", "-o", tmp_path / "m.pt2"))
    assert fake_export.asked["dynamic_size"] is None
    assert fake_export.asked["layer"] is None
    assert fake_export.asked["example"].shape[1:] == (3, 224, 224)
    assert fake_export.asked["image_spec"].crop == (224, 224)


def test_export_hands_over_how_the_maps_are_made(fake_export: FakeExport, tmp_path: Path) -> None:
    arguments = [
        *("--method", "gradcam++", "--option", "eps=0.5", "--layer", "a", "--layer", "b"),
        *("--combine", "product", "--eigen-smooth", "--aug-smooth", "--no-relu", "--no-normalize"),
        *("--map-size", "feature", "--pixels", "--target", "probability", "--explain-output", "1"),
    ]
    path = tmp_path / "m.onnx"
    done(camcore("export", "squeezenet1_1", "--weights", "none", "-o", path, *arguments))
    asked = fake_export.asked
    assert {name: asked[name] for name in asked if name not in _PLAIN} == {
        "method": "gradcam++",
        "eps": 0.5,
        "layer": ["a", "b"],
        "combine": "product",
        "eigen_smooth": True,
        "aug_smooth": True,
        "relu": False,
        "normalize": False,
        "full_size": False,
        "stepwise": False,
        "pixels": True,
        "target": "probability",
        "output": 1,
    }


def test_export_hands_over_the_options_of_many_passes(
    fake_export: FakeExport, tmp_path: Path
) -> None:
    built = ("squeezenet1_1", "--weights", "none", "-o", tmp_path / "m.onnx")
    score = ("--method", "scorecam", "--channels", "8", "--option", "align_corners=true")
    done(camcore("export", *built, *score))
    asked = {name: fake_export.asked[name] for name in ("method", "channels", "align_corners")}
    assert asked == {"method": "scorecam", "channels": 8, "align_corners": True}
    refused = failed(camcore("export", *built, "--method", "rise", "--channels", "8"))
    assert "--channels 8: rise does not choose channels; scorecam, sscam, iscam do" in refused
    assert camcore("export", *built, "--channels", "0").exit_code == 2


_PLAIN = ("model", "example", "model_name", "class_names", "image_spec", "dynamic_size")


def test_export_help_names_every_target() -> None:
    text = done(camcore("export", "--help"))
    for name in TARGETS:
        assert re.search(rf"\b{name}\b", text), name


def test_export_with_class_names_and_a_shape(fake_export: FakeExport, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    arguments = ("--size", "96x128", "--class-names", names, "--dynamic-size")
    path = tmp_path / "m.onnx"
    done(camcore("export", "squeezenet1_1", "--weights", "none", *arguments, "-o", path))
    assert fake_export.asked["class_names"] == ("one", "two")
    assert fake_export.asked["example"].shape[1:] == (3, 96, 128)
    assert fake_export.asked["image_spec"] == ImageSpec(None, None)
    assert fake_export.asked["dynamic_size"] is True


@pytest.mark.parametrize("error", [ExportError("no [rule] for op"), ProofError("maps differ")])
def test_failed_export_is_one_line_and_code_1(
    fake_export: FakeExport, tmp_path: Path, error: Exception
) -> None:
    fake_export.error = error
    result = camcore("export", "squeezenet1_1", "--weights", "none", "-o", tmp_path / "m.onnx")
    assert str(error) in failed(result, code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19"], "unknown model 'resnet19'"),
        (["resnet18", "--weights", "none.pt"], "none.pt does not exist"),
        (["resnet18", "--size", "big"], "--size 'big'; expected 224"),
        (["resnet18", "--size", "1x2x3"], "--size '1x2x3'"),
        (["resnet18", "--size", "0"], "--size '0'"),
        (["resnet18", "--class-names", "none.txt"], "none.txt cannot be read"),
        (["resnet18", "--option", "eps=1"], "gradcam has no options"),
        (["resnet18", "--option", "k=a", "--method", "fem"], "--option k=a; expected a number"),
        (["resnet18", "--method", "gradcan", "--option", "k=1"], "unknown method 'gradcan'"),
        (["resnet18", "--target", "no_module:f"], "no module 'no_module' in the working folder"),
    ],
)
def test_export_errors(
    fake_export: FakeExport, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in failed(camcore("export", *arguments, "-o", tmp_path / "m.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_export_to_an_unknown_format_fails_at_once(fake_export: FakeExport) -> None:
    assert "has the suffix '.h5'; expected .onnx" in failed(
        camcore("export", "resnet18", "-o", "m.h5")
    )
    assert fake_export.asked == {}


def test_export_into_a_missing_folder_fails_at_once(fake_export: FakeExport) -> None:
    message = failed(camcore("export", "resnet18", "-o", "none/m.onnx"))
    assert "there is no folder none; make it first" in message
    assert fake_export.asked == {}


def test_export_over_what_it_reads_or_a_folder_fails_at_once(
    fake_export: FakeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.pt").write_text("weights")
    Path("folder.onnx").mkdir()
    message = failed(camcore("export", "resnet18", "--weights", "mine.pt", "-o", "mine.pt"))
    assert "--output mine.pt would replace mine.pt, which is read" in message
    message = failed(camcore("export", "resnet18", "-o", "folder.onnx"))
    assert "--output folder.onnx is a folder; give a file" in message
    assert fake_export.asked == {}
    assert Path("mine.pt").read_text() == "weights"


def test_layers(fake_export: FakeExport) -> None:
    text = done(camcore("layers", "squeezenet1_1"))
    assert "layers of squeezenet1_1" in text
    assert "512 x 7 x 7" in text
    assert "* layer4 is the default: the last one" in text
    assert "Left out, listed with --all: 1 layer: no image grid" in text
    assert "Linear" not in text
    text = done(camcore("layers", "squeezenet1_1", "--all"))
    assert "1 fc 1000 Linear" in text
    assert "1: no image grid" in text
    assert "--all" not in text


MODULE = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
"""


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_from_model_to_overlay(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The whole road, with the real exporter."""
    (tmp_path / "tiny_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_models", raising=False)
    assert "default" in done(camcore("layers", "tiny_models:build", "--size", "32"))
    file = f"tiny{suffix}"
    done(camcore("export", "tiny_models:build", "--size", "32", "-o", file))
    assert "build" in done(camcore("inspect", file))
    record = json.loads(
        camcore("run", file, photos[0], "--top", "3", "-o", "o.png", "--json", "-").stdout
    )
    (entry,) = record["images"]
    assert sorted(explained["class"] for explained in entry["explained"]) == [0, 1, 2]
    runner = load(file)
    array, _ = prepare(read_image(photos[0]), runner.card.image)
    explanation = runner(array, [0, 1, 2])
    assert 0 <= explanation.saliency_map.min() <= explanation.saliency_map.max() <= 1
    best = entry["predictions"][0]
    assert best["score"] == pytest.approx(explanation.scores[0].max(), rel=1e-5)
    assert read_image("o.png").shape[2] == 3


def test_segmentation_from_model_to_overlay(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of pixels are no scores of classes: none is told, and none is made up."""
    monkeypatch.chdir(tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("sky\nsea\nsand\n")
    arguments = ("--target", "segmentation", "--layer", "backbone", "--size", "32", "-o", "s.onnx")
    text = done(
        camcore("export", "tests.adapters.nets:build_segmenter", *arguments, "--class-names", names)
    )
    assert "gradcam of build_segmenter at backbone, target segmentation" in text
    text = done(camcore("inspect", "s.onnx"))
    assert "out, aux, classes, saliency_map" in text
    assert "out │ float32 │ batch x 3 x" in text
    picture = tmp_path / "o.png"
    options = ("--class", "sea", "--class", "sky", "-o", picture)
    record = json.loads(camcore("run", "s.onnx", photos[0], *options, "--json", "-").stdout)
    assert (record["output"], record["target"]) == ("out", "segmentation")
    (entry,) = record["images"]
    assert entry["predictions"] == []
    assert [(e["name"], e["score"]) for e in entry["explained"]] == [("sea", None), ("sky", None)]
    array, placement = prepare(read_image(photos[0]), load("s.onnx").card.image)
    maps = load("s.onnx")(array, [1, 0]).saliency_map[0]
    for explained, saliency_map in zip(entry["explained"], maps, strict=True):
        y, x = np.unravel_index(saliency_map.argmax(), saliency_map.shape)
        peak = placement.points_to_original(np.array([x + 0.5, y + 0.5]), saliency_map.shape)
        assert explained["peak"] == {"x": pytest.approx(peak[0]), "y": pytest.approx(peak[1])}
    assert read_image(picture).shape[2] == 3
    text = done(camcore("run", "s.onnx", photos[0], *options))
    assert "score ┃" not in text
    assert "The maps show the class's pixels together." in text
    text = done(camcore("run", "s.onnx", photos[0], "--top", "3"))
    assert all(name in text for name in ("sky", "sea", "sand"))


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


def test_overlay_of_maps_as_the_method_gives_them(photos: list[Path]) -> None:
    """Whatever their values, the colours show all of them; in [0, 1] already, none is changed."""
    raw = np.linspace(-3, 5, 12, dtype=np.float32).reshape(3, 4)
    card = replace(CARD, options={"normalize": False})
    np.testing.assert_allclose(cli._for_show(raw, card), (raw + 3) / 8, atol=1e-6)
    assert cli._for_show(raw, CARD) is raw
    explanation = Explanation(
        {
            "scores": np.zeros((1, 4)),
            "classes": np.array([[1]]),
            "saliency_map": raw[None, None] - 9,
        }
    )
    _, placement = prepare(read_image(photos[0]), CARD.image)
    (explained,) = cli._result(photos[0], explanation, placement, card, 3)["explained"]
    x, y = placement.points_to_original(np.array([3.5, 2.5]), (3, 4))
    assert explained["peak"] == {"x": pytest.approx(x, abs=0.06), "y": pytest.approx(y, abs=0.06)}


def test_the_explained_one_of_two_outputs_that_look_alike(
    photos: list[Path], tmp_path: Path
) -> None:
    """Both are scores (B, 3), and the second is asked for."""
    file = tmp_path / "two.onnx"
    model = build_two_heads().eval()
    example = torch.zeros(1, 3, 24, 24)
    spec = ImageSpec(None, None, resize=24, crop=(24, 24))
    save(explain(model, example, output="breed", image_spec=spec), file)
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


def test_export_of_a_model_of_several_inputs_is_left_to_python(tmp_path: Path) -> None:
    model = "tests.adapters.nets:build_with_table"
    for arguments in (["layers", model], ["export", model, "-o", str(tmp_path / "m.onnx")]):
        message = failed(camcore(*arguments))
        assert "build_with_table takes image, table, of which the command line knows" in message
        assert "camcore.export.explain(model, (image, ...))" in message
