"""The arrows between the folders: camcore <- export, camcore <- adapters, and nothing else."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import camcore
import camcore.adapters
import camcore.export
from camcore.export.families import FAMILIES
from camcore.export.prove.reference import REFERENCES
from camcore.methods import Needs

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


# The road, from below: a room imports from itself and from those before it alone. The two at the
# end know nothing of each other.
ROAD = [
    ["trace"],
    ["cut"],
    ["find"],
    ["request"],
    ["finish"],
    ["boxes", "concepts"],
    ["body"],
    ["gradient"],
    ["passes"],
    ["families"],
    ["explained", "given", "cards"],
    ["detectors"],
    ["compose"],
    ["write", "prove"],
]


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[2] for name in names if name.startswith("camcore.export.")}


@pytest.mark.parametrize("path", sources(camcore.export), ids=lambda path: path.name)
def test_rooms_import_what_is_below_them_alone(path: Path) -> None:
    own = path.relative_to(Path(str(camcore.export.__file__)).parent).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    (floor,) = (floor for floor, names in enumerate(ROAD) if own in names)
    below = {name for names in ROAD[:floor] for name in names}
    assert rooms(imports(path)) <= below | {own}


def test_every_room_is_on_the_road() -> None:
    folder = Path(str(camcore.export.__file__)).parent
    found = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__pycache__"} == {name for names in ROAD for name in names}


def test_an_import_that_runs_up_is_seen(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("def f():\n    from camcore.export import compose\n")
    assert rooms(imports(tmp_path / "wrong.py")) == {"compose"}


def reached(names: set[str]) -> set[str]:
    """What imports reach: of a package that a file is taken from, the file alone."""
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def circles(package: object) -> list[str]:
    """Files that reach themselves by imports, within a package."""
    prefix = str(package.__name__)  # type: ignore[attr-defined]
    folder = Path(str(package.__file__)).parent  # type: ignore[attr-defined]
    modules = {}
    for path in sources(package):
        parts = path.relative_to(folder).with_suffix("").parts
        modules[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    arrows = {
        name: reached(imports(path) & set(modules)) - {name} for name, path in modules.items()
    }
    found = []
    for start in modules:
        seen, pending = set[str](), set(arrows[start])
        while pending:
            seen |= pending
            pending = {name for each in pending for name in arrows[each]} - seen
        found += [start] if start in seen else []
    return found


@pytest.mark.parametrize("package", [camcore.export, camcore.adapters], ids=["export", "adapters"])
def test_no_file_imports_itself_by_way_of_others(package: object) -> None:
    assert not circles(package)


def test_kinds_of_methods_are_named_by_their_tables_alone() -> None:
    kinds = set(get_args(Needs))
    folder = Path(str(camcore.export.__file__)).parent
    others = [
        path
        for package in (camcore.export, camcore.adapters)
        for path in sources(package)
        if path.parent not in (folder / "families", folder / "prove")
    ]
    for path in others:
        literals = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if type(node) is ast.Constant
        }
        assert not kinds & {value for value in literals if isinstance(value, str)}, path


def test_every_kind_has_a_family_and_a_reference() -> None:
    assert set(FAMILIES) == set(REFERENCES) == set(get_args(Needs))


def test_every_source_has_its_tests() -> None:
    """File for file; the references of the kinds are tested side by side, by their method."""
    folder = Path(str(camcore.export.__file__)).parent
    of_kinds = {Path(str(module)).stem for module in (folder / "families").glob("*.py")}
    for path in sources(camcore.export):
        *rooms, name = path.relative_to(folder).with_suffix("").parts
        if name == "__init__" or (rooms == ["prove"] and name in of_kinds):
            continue
        importlib.import_module(".".join(["tests.export", *rooms, f"test_{name}"]))
