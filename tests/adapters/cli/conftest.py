import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcore.adapters.cli import console
from tests.adapters.cli.fake_export import FakeExport


@pytest.fixture(autouse=True)
def wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as on a wide terminal, so that no text is broken."""
    monkeypatch.setenv("COLUMNS", "300")
    for each in (console.out, console.err):
        # A console keeps the width that was set when it was made.
        monkeypatch.setattr(each, "_width", None)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two photos of one name in two folders, and a third."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a" / "photo.png", tmp_path / "b" / "photo.png", tmp_path / "other.jpg"]
    for path, size in zip(paths, [(50, 60), (80, 45), (40, 40)], strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def fake_export(monkeypatch: pytest.MonkeyPatch) -> FakeExport:
    import camcore as package

    fake = FakeExport()
    monkeypatch.setitem(sys.modules, "camcore.export", fake)
    monkeypatch.setattr(package, "export", fake, raising=False)
    return fake
