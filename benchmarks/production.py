"""The production side: the first result in a fresh interpreter, and what has to be installed."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.timing import Comparison, compare

HERE = Path(__file__).parent


def first_runs(plain: Path, explained: Path, image: Path, rounds: int) -> Comparison:
    """Import, load and first run in fresh interpreters: onnxruntime alone, and camcore's runner.

    Raises:
        RuntimeError: torch was imported on the way.
    """

    def seconds(contender: str, file: Path) -> float:
        # -I: what lies in the working folder or in PYTHONPATH is not what users import.
        script = [sys.executable, "-I", str(HERE / "first_run.py")]
        printed = subprocess.run(
            [*script, contender, str(file), str(image)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        result = json.loads(printed)
        if result["torch"]:
            raise RuntimeError(f"{contender} imported torch")
        return float(result["seconds"])

    pairs = [
        (seconds("onnxruntime", plain), seconds("camcore", explained)) for _ in range(rounds + 1)
    ]
    return compare(*zip(*pairs[1:], strict=True))  # the first pair read the libraries from disk


def install_size(project: Path, extra: str) -> int:
    """Bytes that `pip install` of a project puts into an empty folder; needs a package index."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        # A copy, for a build leaves its files where the source is.
        unneeded = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
        shutil.copytree(project, source, ignore=unneeded)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(target), f"{source}[{extra}]"], check=True)
        return _bytes(target.rglob("*"))


def installed_size(requirement: str) -> int:
    """Bytes of a distribution in this environment, with everything that it requires."""
    files = (
        Path(str(file.locate()))
        for name in _with_requirements(Requirement(requirement), set())
        for file in metadata.files(name) or []
    )
    return _bytes(files)


def _with_requirements(requirement: Requirement, found: set[str]) -> set[str]:
    found.add(canonicalize_name(requirement.name))
    for text in metadata.requires(requirement.name) or []:
        inner = Requirement(text)
        extras = requirement.extras | {""}
        needed = not inner.marker or any(inner.marker.evaluate({"extra": name}) for name in extras)
        # An extra may name its own distribution again, so a name alone is no proof of a visit.
        if needed and (canonicalize_name(inner.name) not in found or inner.extras):
            _with_requirements(inner, found)
    return found


def _bytes(files: Iterable[Path]) -> int:
    # Without byte code: who runs the code makes it, not who installs it.
    return sum(
        file.stat().st_size for file in files if file.is_file() and "__pycache__" not in file.parts
    )
