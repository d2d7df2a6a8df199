"""The arrows between the folders: camcore <- export, camcore <- adapters, and nothing else."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import camcore
import camcore.adapters
import camcore.export

HEAVY = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "cv2"}


def sources(package: object) -> list[Path]:
    folder = Path(str(package.__file__)).parent  # type: ignore[attr-defined]
    found = sorted(path for path in folder.rglob("*.py"))
    if package is camcore:
        # Where camcore is installed as a copy, its sub-packages lie in its folder.
        found = [path for path in found if not {"export", "adapters"} & set(path.parts[-3:])]
    assert len(found) >= 5
    return found


def imports(path: Path) -> set[str]:
    """The full names of the modules that a file imports anywhere in it, those for types too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", sources(camcore), ids=lambda path: path.name)
def test_the_kernels_import_the_standard_library_and_the_array_api_alone(path: Path) -> None:
    own = {name for name in imports(path) if name.partition(".")[0] == "camcore"}
    others = {name.partition(".")[0] for name in imports(path) - own}
    assert others <= sys.stdlib_module_names | {"array_api_compat", "array_api_extra"}
    assert not [name for name in own if name.startswith(("camcore.export", "camcore.adapters"))]


@pytest.mark.parametrize("path", sources(camcore.export), ids=lambda path: path.name)
def test_export_knows_nothing_of_adapters(path: Path) -> None:
    assert not [name for name in imports(path) if name.startswith("camcore.adapters")]


def loaded_by(statement: str) -> set[str]:
    """The top names in `sys.modules` of a fresh interpreter, and camcore's own in full."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names = done.stdout.split()
    return {name if name.startswith("camcore") else name.partition(".")[0] for name in names}


def test_importing_camcore_loads_nothing_heavy() -> None:
    loaded = loaded_by("import camcore")
    assert "camcore.weighting" in loaded
    assert not loaded & HEAVY
    assert "camcore.export" not in loaded


def test_importing_export_loads_no_adapter() -> None:
    loaded = loaded_by("import camcore.export")
    assert {"camcore.export.compose", "torch"} <= loaded
    assert not [name for name in loaded if name.startswith("camcore.adapters")]
    # The proof asks for it, and only where an ONNX file is written.
    assert not loaded & {"cv2", "onnxruntime"}


def test_every_source_has_its_tests() -> None:
    folder = Path(str(camcore.export.__file__)).parent
    for path in sources(camcore.export):
        if path.stem != "__init__":
            *rooms, name = path.relative_to(folder).with_suffix("").parts
            importlib.import_module(".".join(["tests.export", *rooms, f"test_{name}"]))
