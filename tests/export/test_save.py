"""Writing to disk: all or nothing."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camcore.errors import ExportError, FileError, InputError
from camcore.export import Explained, save
from camcore.export.write.capture import capture
from camcore.export.write.pt2_file import to_pt2
from camcore.export.write.torchscript_file import to_torchscript
from camcore.export.write.write import WRITERS
from tests.export.models import images
from tests.export.oracle import run_file

FORMATS = (".onnx", ".pt", ".pt2")


@pytest.fixture(scope="module")
def content(explained: Explained) -> bytes:
    return to_torchscript(capture(explained), explained.card)


@pytest.fixture
def quick(content: bytes, explained: Explained, monkeypatch: pytest.MonkeyPatch) -> Explained:
    """An explained module whose file is not written anew for each test, but proven as ever."""
    monkeypatch.setitem(WRITERS, ".pt", lambda program, card: content)
    monkeypatch.setattr("camcore.export.capture", lambda explained: None)
    return explained


@pytest.mark.parametrize("suffix", [".pth", "", ".onnx.gz", ".onn"])
def test_unknown_suffix(suffix: str, explained: Explained, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"'model.*': expected a name that ends in \.onnx, \.pt, \.pt2"
    ):
        save(explained, tmp_path / f"model{suffix}")
    assert not list(tmp_path.iterdir())


def test_suffixes_of_any_case_and_paths_as_text(quick: Explained, tmp_path: Path) -> None:
    save(quick, str(tmp_path / "model.PT"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.PT"]


def test_an_existing_file_is_replaced(quick: Explained, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    card = save(quick, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]
    image = images(1, 2, 24, 24)
    given = run_file(path, image, torch.tensor([[-1]]))
    np.testing.assert_allclose(given.scores, quick(image).scores, rtol=1e-4, atol=1e-5)
    assert card.proof["worst_relative_error"] < 1e-4


def test_the_file_has_the_usual_permissions(quick: Explained, tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    save(quick, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_mode == usual.stat().st_mode


def test_a_folder_that_does_not_exist(explained: Explained, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot write to the folder .*nowhere"):
        save(explained, tmp_path / "nowhere" / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_read_only_folder(explained: Explained, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(FileError, match="cannot write to the folder"):
            save(explained, tmp_path / "model.onnx")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_is_known_to_be_read_only_before_the_work(
    explained: Explained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("camcore.export.capture", lambda explained: pytest.fail("worked in vain"))
    with pytest.raises(FileError, match=r"cannot write to the folder .*Permission denied"):
        save(explained, tmp_path / "model.onnx")


def test_a_full_disk(quick: Explained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(FileError, match=r"cannot write .*No space left on device"):
        save(quick, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("error", [ExportError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_failure(
    error: BaseException, quick: Explained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    monkeypatch.setattr("camcore.export.prove_file", fail)
    with pytest.raises(type(error)):
        save(quick, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


def test_the_file_that_stands_there_is_whole_at_any_time(
    quick: Explained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is proven, the old file still has its name."""
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    seen: list[bytes] = []

    def look(scratch: Path, explained: Explained) -> dict[str, Any]:
        seen.append(path.read_bytes())
        return {"runtime": "none", "images": 0, "worst_relative_error": 0.0}

    monkeypatch.setattr("camcore.export.prove_file", look)
    save(quick, path)
    assert seen == [b"old"]
    assert path.read_bytes() != b"old"


# With torch alone: what is None among the modules cannot be imported.
ALONE = """
import sys, warnings
sys.modules.update(dict.fromkeys(["camcore", "onnx", "onnxruntime", "onnxscript", "torchvision"]))
import torch
warnings.filterwarnings("ignore", message=".*torch.jit")
path, image, result = sys.argv[1:]
inputs = torch.load(image)
if path.endswith(".pt"):
    module = torch.jit.load(path)
else:
    module = torch.export.load(path).module(check_guards=False)
torch.save(list(module(*inputs)), result)
assert sys.modules["camcore"] is None
"""


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_the_file_runs_with_torch_alone(
    suffix: str, content: bytes, explained: Explained, tmp_path: Path
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content if suffix == ".pt" else to_pt2(capture(explained), explained.card))
    inputs = images(3, 2, 30, 20), torch.tensor([[-1, 2], [0, -1]])
    torch.save(inputs, tmp_path / "inputs")
    arguments = [str(path), str(tmp_path / "inputs"), str(tmp_path / "result")]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, cwd=tmp_path)
    given = torch.load(tmp_path / "result")
    expected = explained(*inputs)
    assert torch.equal(given[1], expected.classes)
    torch.testing.assert_close(given[0], expected.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given[2], expected.saliency_map, rtol=0, atol=1e-4)


def test_one_more_check_stands_in_the_proof(quick: Explained, tmp_path: Path) -> None:
    seen = []

    def check(explained: Explained, path: Path) -> dict[str, Any]:
        seen.append((explained, path.exists(), path.name))
        return {"original": "abc"}

    card = save(quick, tmp_path / "model.pt", check=check)
    ((explained, exists, name),) = seen
    assert explained is quick
    assert exists
    assert name != "model.pt"  # before it has its name
    assert card.proof["original"] == "abc"
    assert "worst_relative_error" in card.proof
