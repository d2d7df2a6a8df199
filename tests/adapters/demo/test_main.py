import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from PIL import Image

from camcore.adapters.demo import __main__ as demo
from camcore.adapters.files import read_card

# The demo in a fresh interpreter, which then tells whether PyTorch came in by any way.
_RUN = """
import sys
from camcore.adapters.demo.__main__ import main
if __name__ == "__main__":
    main(sys.argv[1:])
    print("torch imported:", "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def printed(folder: Path) -> list[str]:
    (folder / "run.py").write_text(_RUN, encoding="utf-8")
    arguments = ["--output", "made/here", "--picture", "docs/demo.png", "--scenes", "30"]
    done = subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=folder,
        env={"COLUMNS": "200", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def cells(printed: list[str], first: str) -> list[str]:
    (line,) = (line for line in printed if line.startswith(f"│ {first} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_file_is_proven_and_explains_the_last_block(printed: list[str], folder: Path) -> None:
    card = read_card(folder / "made/here/scenes.onnx")
    assert (card.model, card.method, card.layer) == ("scenes", "gradcam", "block4")
    proofs = [line for line in printed if line.startswith("proved")]
    assert len(proofs) == 2  # and the detector's
    assert f"worst relative error {card.proof['worst_relative_error']}" in proofs[0]


def test_using_the_file_imports_no_torch(printed: list[str]) -> None:
    assert printed[-1] == "torch imported: False"


def test_the_detector_s_file_is_proven(printed: list[str], folder: Path) -> None:
    card = read_card(folder / "made/here/detector.onnx")
    assert (card.model, card.method, card.layer) == ("scenes-retinanet", "hirescam", "backbone")
    assert card.proof["detections"] >= 3
    found = [line for line in printed if "detections.png" in line and "│" in line]
    assert len(found) == 1


def test_pictures(printed: list[str], folder: Path) -> None:
    sizes = {}
    for path in (folder / "made/here").glob("*.png"):
        with Image.open(path) as picture:
            sizes[path.stem] = picture.size
    assert sizes.keys() == {
        "overview",
        "scene",
        "detections",
        *(f"painted-{i}" for i in (1, 2, 3)),
        *(f"{name}{suffix}" for name in ("astronaut", "chelsea") for suffix in ("", "-objects")),
    }
    overview = folder / "made/here/overview.png"
    assert overview.stat().st_size < 500_000
    assert (folder / "docs/demo.png").read_bytes() == overview.read_bytes()
    assert sizes["overview"][0] == sizes["painted-1"][0]


def test_figures(printed: list[str]) -> None:
    own, other, blur = (
        [float(cell.strip("%")) for cell in cells(printed, name)[1:]]
        for name in ("the object's class", "another object's class", "a blur in the middle")
    )
    assert own[0] == blur[0] > other[0] > 30
    assert own[1] > 90 > 50 > max(other[1], blur[1])
    assert own[2] > 0.5 > 0.2 > max(other[2], blur[2])
    detections, others = (
        [float(cell.strip("%")) for cell in cells(printed, name)[1:]]
        for name in ("each detection's own", "another detection's")
    )
    assert detections[0] > 30
    assert detections[1] > 95 > 5 > others[1]
    assert any("stated at training on 2000 other scenes" in line for line in printed)


def test_it_ends_with_commands_for_what_it_made(printed: list[str]) -> None:
    start = next(i for i, line in enumerate(printed) if line.startswith("Next"))
    commands = [line.strip().partition(" ") for line in printed[start + 1 : -1]]
    # The path is empty here, so the command is given by its place, unless it is not installed.
    own = Path(sys.executable).with_name("camcore")
    assert {command for command, _, _ in commands} == {str(own) if own.exists() else "camcore"}
    arguments = [rest for _, _, rest in commands]
    assert arguments[0].startswith("run made/here/scenes.onnx made/here/scene.png --class ")
    assert "inspect made/here/scenes.onnx" in arguments


@pytest.mark.parametrize(
    ("on_path", "inside", "expected"),
    [
        (True, True, "camcore"),
        (False, True, ".venv/bin/camcore"),
        (False, False, "{folder}/.venv/bin/camcore"),
    ],
)
def test_camcore_is_called_by_the_shortest_way(
    on_path: bool, inside: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "camcore").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    monkeypatch.setenv("PATH", str(bin_folder) if on_path else "")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path if inside else tmp_path / "other")
    assert demo._camcore() == expected.format(folder=tmp_path)


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "skimage" else ModuleSpec(name, None)

    monkeypatch.setattr(demo, "find_spec", find_spec)
    with pytest.raises(SystemExit, match=r"needs skimage, .* 'camcore\[export,run,test\]'"):
        demo.main(["--output", str(tmp_path / "made")])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"file/made cannot be made: Not a directory"):
        demo.main(["--output", str(tmp_path / "file" / "made")])


def test_a_wrong_number_of_scenes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(["--scenes", "0"])
    assert "--scenes is 0; expected at least 1" in capsys.readouterr().err
