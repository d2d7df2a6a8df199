import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from camcore.adapters.files import read_card
from camcore.adapters.serving import web
from camcore.errors import FileError, InputError
from tests.adapters.toy import CARD


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two files of one name, and a third, which nobody looks into."""
    paths = [tmp_path / "a" / "photo.png", tmp_path / "b" / "photo.png", tmp_path / "other.jpg"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(path))
    return paths


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in web.RUNTIME_FILES:
        (folder / name).write_text(name)
    return folder


def test_a_page_has_its_parts_the_file_and_the_examples(
    spots: Path, runtime: Path, photos: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "page"
    web.write_page(
        spots, read_card(spots), folder, examples=photos, colormap="bone", runtime=runtime
    )
    assert (folder / spots.name).read_bytes() == spots.read_bytes()
    assert (folder / "onnxruntime" / web.RUNTIME_FILES[-1]).read_text() == web.RUNTIME_FILES[-1]
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["file"] == spots.name
    assert settings["examples"] == ["photo.png", "photo-2.png", "other.jpg"]
    for name, photo in zip(settings["examples"], photos, strict=True):
        assert (folder / "examples" / name).read_bytes() == photo.read_bytes()
    colours = settings["colours"]
    assert [colours[0], colours[255], len(colours)] == [[0, 0, 0], [255, 255, 255], 256]
    source = Path(web.__file__).parent / "page"
    parts = [path.name for path in source.iterdir()]
    assert {path.name: path.read_bytes() for path in source.iterdir()} == {
        name: (folder / name).read_bytes() for name in parts
    }


def test_a_page_may_lie_where_its_file_is(spots: Path, runtime: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.onnx"
    file.write_bytes(spots.read_bytes())
    web.write_page(file, read_card(file), tmp_path, runtime=runtime)
    assert file.read_bytes() == spots.read_bytes()


def test_npm_fetches_the_runtime_once(
    spots: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def from_npm(folder: Path) -> Path:
        fetched.append(folder)
        return runtime

    monkeypatch.setattr(web, "_from_npm", from_npm)
    for _ in range(2):
        web.write_page(spots, read_card(spots), tmp_path / "page")
    assert len(fetched) == 1
    (tmp_path / "page/onnxruntime/version.txt").write_text("onnxruntime-web@1.0.0")
    web.write_page(spots, read_card(spots), tmp_path / "page")
    assert len(fetched) == 2


def test_without_npm_or_what_it_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setattr(web.shutil, "which", lambda name: name)
    monkeypatch.setattr(web.subprocess, "run", lambda *given, **options: failed)
    with pytest.raises(FileError, match=r"npm could not fetch onnxruntime-web@.*no network"):
        web._from_npm(tmp_path)
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    with pytest.raises(FileError, match="--runtime"):
        web._from_npm(tmp_path)


def test_a_folder_that_is_no_runtime(spots: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"has no ort\.wasm\.min\.mjs; expected the dist folder"):
        web.write_page(spots, read_card(spots), tmp_path / "page", runtime=tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("toy.pt", {}, "a page runs .onnx files"),
        ("toy.onnx", {"inputs": ("image", "table", "class_ids")}, "takes table beside the image"),
        ("toy.onnx", {"image": replace(CARD.image, spatial_ndim=1)}, "no pictures"),
        ("toy.onnx", {"image": replace(CARD.image, channels=4)}, "no pictures"),
    ],
)
def test_files_that_no_page_can_run(file: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        web.check_page(Path(file), replace(CARD, **changes))
