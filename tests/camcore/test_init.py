"""The package: what it offers, what it imports, and the examples in its docstrings."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import camcore

# Sub-packages are other floors of the house; private modules belong to the core.
MODULES = ["camcore"] + [
    f"camcore.{module.name}"
    for module in pkgutil.iter_modules([str(Path(camcore.__file__).parent)])
    if not module.ispkg
]


def test_importing_camcore_imports_no_framework() -> None:
    program = "import sys; before = {*sys.modules}; import camcore; print(*{*sys.modules} - before)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    imported = set(result.stdout.split())
    assert "camcore.weighting" in imported
    unwanted = {"camcore.export", "camcore.adapters", "cv2", "jax", "onnx", "onnxruntime", "torch"}
    assert not imported & unwanted
    # What the version alone needs.
    assert not imported & {"importlib.metadata", "email"}


def test_all_lists_what_is_there() -> None:
    public = {
        name
        for name, value in vars(camcore).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "TYPE_CHECKING"
    }
    assert set(camcore.__all__) == public
    assert camcore.__all__ == sorted(camcore.__all__, key=lambda name: (not name.isupper(), name))


def test_the_version_is_the_projects() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert camcore.__version__ == tomllib.loads(pyproject.read_text())["project"]["version"]
    from camcore import __version__

    assert __version__ == camcore.__version__
    with pytest.raises(AttributeError, match="'camcore' has no attribute 'versoin'"):
        camcore.versoin  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_function_has_an_example_that_runs() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    run = {
        test.name
        for module in MODULES
        for test in finder.find(importlib.import_module(module))
        if test.examples
    }
    for name in camcore.__all__:
        value = getattr(camcore, name)
        if inspect.isfunction(value):
            assert f"{value.__module__}.{name}" in run
