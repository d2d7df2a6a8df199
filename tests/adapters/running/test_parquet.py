from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camcore.adapters.images import prepare, read_image
from camcore.adapters.running.entries import Task, entries
from camcore.adapters.running.job import open_job
from camcore.adapters.running.request import Request
from camcore.errors import FileError
from tests.adapters.toy import CARD, reference

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from camcore.adapters.running import parquet  # noqa: E402
from camcore.adapters.running.parquet import done_rows, files_in, recording_rows  # noqa: E402


def written(folder: Path, file: Path, images: list[Path], maps: Any) -> Any:
    job = open_job(Request(file, top=2, maps=maps))
    with recording_rows(folder, job.mark(maps), maps) as write:
        for entry in entries(job, map(Task, images)):
            write(entry)
    return pq.read_table(folder)


@pytest.mark.parametrize(("maps", "tolerance"), [("uint8", 0.6 / 255), ("float16", 1e-3)])
def test_maps_are_kept_with_their_place(
    toy_folder: Path, tree: Path, tmp_path: Path, maps: Any, tolerance: float
) -> None:
    images = sorted(tree.glob("*/*.png"))
    table = written(tmp_path / "out", toy_folder / "toy.onnx", images, maps)
    assert (
        str(table.schema.field("maps").type.value_type)
        == {
            "uint8": "uint8",
            "float16": "halffloat",
        }[maps]
    )
    for path, row in zip(images, table.to_pylist(), strict=True):
        if row["error"] is not None:
            assert row["maps"] is None
            continue
        array, placement = prepare(read_image(path), CARD.image)
        expected = reference(array, np.array([[-1, -1]])).saliency_map[0]
        kept = np.reshape(row["maps"], row["map_shape"]) / (255 if maps == "uint8" else 1)
        np.testing.assert_allclose(kept, expected, atol=tolerance)
        edges = [placement.left, placement.top, placement.right, placement.bottom]
        assert row["map_place"] == edges


def test_files_are_written_when_they_are_full(
    toy_folder: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted(tree.glob("*/*.png"))
    file, folder = toy_folder / "toy.onnx", tmp_path / "out"
    monkeypatch.setattr(parquet, "_MOST_ROWS", 4)
    written(folder, file, images, None)
    assert [len(pq.read_table(path)) for path in files_in(folder)] == [4, 2]
    monkeypatch.setattr(parquet, "_MOST_BYTES", 2 * 32 * 32)  # the maps of one image
    by_size = written(tmp_path / "by_size", file, images, "uint8")
    # The broken one has none, and fills no file.
    lengths = [len(pq.read_table(path)) for path in files_in(tmp_path / "by_size")]
    assert lengths == [1, 1, 1, 2, 1]
    assert len(by_size) == 6
    monkeypatch.setattr(parquet, "_MOST_SECONDS", 0.0)
    written(tmp_path / "by_time", file, images, None)
    assert len(files_in(tmp_path / "by_time")) == 6


def test_what_is_no_run(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "part-000000.parquet")
    with pytest.raises(FileError, match="is of another run"):
        done_rows(tmp_path, "0")
    (tmp_path / "part-000000.parquet").write_text("no Parquet")
    with pytest.raises(FileError, match="cannot be read"):
        done_rows(tmp_path, "0")
    assert not done_rows(tmp_path / "none", "0")
