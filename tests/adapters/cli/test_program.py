import runpy
import shutil
import subprocess
import sys
from importlib.metadata import version
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from camcore.adapters.cli import app
from tests.adapters.cli.calls import camcore, done, failed
from tests.adapters.toy import write_toy

# In the order of use.
COMMANDS = [
    "export",
    "run",
    "report",
    "evaluate",
    "compare",
    "convert",
    "serve",
    "train",
    "inspect",
    "methods",
    "layers",
    "kernels",
]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_teaches_with_examples(command: str | None) -> None:
    text = done(camcore(*([] if command is None else [command]), "--help"))
    example = {None: "camcore export resnet18", "methods": "what they cost"}
    assert example.get(command, f"• camcore {command} ") in text
    assert ("Exit codes" in text) == (command is None)


def test_commands_are_listed_in_the_order_of_use() -> None:
    listed = list(get_command(app).commands)  # type: ignore[attr-defined]
    assert listed == COMMANDS


def test_usage_errors_come_with_code_2() -> None:
    assert camcore("run").exit_code == 2
    assert camcore("explode").exit_code == 2


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_debug_shows_the_traceback_and_the_same_exit_code(toy_folder: Path, place: int) -> None:
    arguments = ["run", str(toy_folder / "toy.onnx"), "none.png"]
    plain = camcore(*arguments)
    arguments.insert(place, "--debug")
    result = camcore(*arguments)
    assert result.exit_code == plain.exit_code == 2
    assert "Traceback" in result.stderr
    assert "in find_placed_images" in result.stderr
    assert result.stderr.endswith(plain.stderr)
    assert "Traceback" not in plain.stderr


def test_debug_behind_two_dashes_is_a_name(toy_folder: Path) -> None:
    message = failed(camcore("run", toy_folder / "toy.onnx", "--", "--debug"))
    assert message == "camcore: --debug does not exist\n"


@pytest.mark.parametrize("command", [[], ["export"], ["run"]])
def test_short_help(command: list[str]) -> None:
    assert done(camcore(*command, "-h")) == done(camcore(*command, "--help"))


def test_version() -> None:
    assert done(camcore("--version")) == f"camcore {version('camcore')}"


def test_the_package_is_the_command() -> None:
    """As `python -m camcore`."""
    call = [sys.executable, "-m", "camcore", "--version"]
    shown = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert shown == f"camcore {version('camcore')}\n"
    call = [sys.executable, "-m", "camcore", "inspect", "none.onnx"]
    ended = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")


@pytest.mark.parametrize(
    ("begun", "offered"),
    [("export resnet18 --method layer", "layercam"), ("run a b --colormap viri", "viridis")],
)
def test_shells_complete(begun: str, offered: str) -> None:
    """What the scripts that --install-completion writes ask for."""
    asked = {"_CAMCORE_COMPLETE": "complete_bash", "COMP_WORDS": f"camcore {begun}"}
    asked["COMP_CWORD"] = str(len(begun.split()))
    result = CliRunner().invoke(app, [], prog_name="camcore", env=asked)
    assert result.stdout.split() == [offered]


def test_ctrl_c_stops_a_run(
    endless: Path, photos: list[Path], tmp_path: Path, press_ctrl_c: None
) -> None:
    """While onnxruntime is at work, and will be for weeks."""
    output = tmp_path / "overlay.png"
    result = camcore("run", endless, photos[0], "--output", output)
    assert failed(result, 130) == "camcore: stopped by Ctrl-C\n"
    assert not output.exists()


def test_names_that_the_terminal_cannot_show(
    toy_folder: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a letter that its encoding lacks nor bytes that are no letters end in a traceback."""
    names = ["café.png", "bad\udcff.png"]
    for name in names:
        shutil.copyfile(photos[0], tmp_path / name)
    shown, errors = (TextIOWrapper(BytesIO(), encoding="ascii", errors="strict") for _ in range(2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["camcore", "run", str(toy_folder / "toy.onnx"), *names])
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", errors)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("camcore.adapters.cli", run_name="__main__")
    assert (stopped.value.code, printed(errors)) == (0, "")
    assert "caf\\xe9.png" in printed(shown)
    assert "bad\\udcff.png" in printed(shown)


def printed(stream: TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


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


def test_missing_typer_is_named() -> None:
    code = "import sys; sys.modules['typer'] = None; import camcore.adapters.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("the camcore command needs typer: pip install 'camcore[run]'")
