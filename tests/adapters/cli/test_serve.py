from pathlib import Path

import pytest

from camcore.adapters.serving.web import RUNTIME_FILES
from tests.adapters.cli.calls import camcore, done, failed


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in RUNTIME_FILES:
        (folder / name).write_text(name)
    return folder


def test_a_page_and_a_repository_of_one_file(
    spots: Path, photos: list[Path], runtime: Path, tmp_path: Path
) -> None:
    page, models = tmp_path / "page", tmp_path / "models"
    web = ("--web", page, "--runtime", runtime, "--example", photos[0].parent)
    text = done(camcore("serve", spots, *web, "--triton", models, "--name", "own"))
    assert f"python -m http.server -d {page}" in text
    assert f"tritonserver --model-repository {models}" in text
    assert (page / "examples" / "photo.png").exists()
    assert 'name: "own"' in (models / "own" / "config.pbtxt").read_text()


def test_wrong_input(spots: Path, toy_folder: Path, runtime: Path, tmp_path: Path) -> None:
    assert "--web DIR or --triton DIR" in failed(camcore("serve", spots))
    (tmp_path / "file").write_text("")
    for option in ("--web", "--triton"):
        assert "is a file" in failed(camcore("serve", spots, option, tmp_path / "file"))
    web = ("--web", tmp_path / "page", "--runtime", runtime)
    assert "runs .onnx files" in failed(camcore("serve", toy_folder / "toy.pt", *web))
    message = failed(camcore("serve", spots, *web, "--colormap", "jett"))
    assert "nearest: jet" in message
    assert not (tmp_path / "page").exists()
