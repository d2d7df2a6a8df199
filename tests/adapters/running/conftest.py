from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Six pictures in three folders, one of them broken."""
    rng = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "photos" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "b" / "4.png").write_text("broken")
    return tmp_path / "photos"
