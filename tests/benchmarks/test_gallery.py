from pathlib import Path

import pytest

from benchmarks.gallery import WIDTH, files_of, gallery, shown_scenes
from camcore.adapters.overlay import GAP
from camcore.errors import FileError
from tests.adapters.untrained import write_spots


def test_a_tile_for_each_method_and_scene(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"holds no METHOD\.onnx"):
        files_of(tmp_path)
    write_spots(tmp_path / "layercam.onnx", "required", boxes=None)
    files = files_of(tmp_path)
    assert [path.name for path in files] == ["layercam.onnx"]
    picture = gallery(files, shown_scenes())
    assert picture.shape[1] == 4 * WIDTH + 3 * GAP  # image and method, two scenes each
    plain, drawn = picture[40:, :WIDTH], picture[40:, 2 * (WIDTH + GAP) : 3 * WIDTH + 2 * GAP]
    assert abs(plain.astype(int) - drawn).mean() > 10
