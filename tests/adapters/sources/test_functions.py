import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from camcore.adapters.sources.build import build_model
from camcore.errors import CamcoreError, InputError, UnknownNameError

MODULE = """
import torch
from torch import nn

def build_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))

def broken():
    raise ValueError("no luck")

def number():
    return 5

not_a_function = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the working folder."""
    (tmp_path / "users_models.py").write_text(MODULE)
    (tmp_path / "needs_more.py").write_text("import a_package_that_nobody_has")
    (tmp_path / "syntax.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "users_models", raising=False)
    return "users_models"


def test_module_function(module: str) -> None:
    built = build_model(f"{module}:build_net")
    assert built.name == "Sequential"
    assert built.class_names is None
    assert not built.model.training
    assert str(Path.cwd()) not in sys.path


def test_module_function_with_a_file(module: str, tmp_path: Path) -> None:
    first = build_model(f"{module}:build_net").model
    save_file(first.state_dict(), tmp_path / "mine.safetensors")
    second = build_model(f"{module}:build_net", str(tmp_path / "mine.safetensors")).model
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("nowhere_at_all:f", "NONE", UnknownNameError, "no module 'nowhere_at_all'"),
        ("users_models:build_nets", "NONE", UnknownNameError, "nearest: build_net"),
        ("users_models:not_a_function", "NONE", UnknownNameError, "unknown function"),
        ("users_models:broken", "NONE", InputError, r"broken\(\) failed: ValueError: no luck"),
        ("users_models:number", "NONE", InputError, "returned int; expected a torch.nn.Module"),
        ("users_models:build_net", "V7", InputError, "weights 'V7' are no file"),
        ("needs_more:f", "NONE", InputError, "importing needs_more failed: .*nobody_has"),
        ("syntax:f", "NONE", InputError, "importing syntax failed"),
    ],
)
def test_module_function_errors(
    module: str, name: str, weights: str, error: type[CamcoreError], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_model(name, weights)
