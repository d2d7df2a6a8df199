"""A file on a Ray of two actors beside the same file in one process."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camcore.adapters.images import prepare, read_image
from camcore.adapters.running.entries import Entry, Task, entries
from camcore.adapters.running.job import open_job
from camcore.adapters.running.request import Request
from camcore.errors import InputError, UnknownNameError
from tests.adapters.cli.calls import camcore, done
from tests.adapters.toy import CARD, reference

pa = pytest.importorskip("pyarrow")

from camcore.adapters.serving.cluster import mapped  # noqa: E402
from camcore.adapters.serving.ray import Explain, ray_entries  # noqa: E402

# Ray sets options of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning")

COUNT = 500


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of five shapes in seven folders, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = [folder / str(number % 7) / f"{number:03}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (40 + number % 5, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    paths[123].write_text("broken")
    return paths


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    pytest.importorskip("pandas")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def check_same(one: list[Entry], other: list[Entry]) -> None:
    assert [each.number for each in one] == [each.number for each in other]
    for a, b in zip(one, other, strict=True):
        check_same_values(a.record, b.record)
        assert (a.failed is None) == (b.failed is None)
        assert (a.kept is None) == (b.kept is None)
        if a.kept is not None and b.kept is not None:
            assert a.kept.place == b.kept.place
            assert a.kept.maps.dtype == b.kept.maps.dtype
            difference = a.kept.maps.astype(float) - b.kept.maps.astype(float)
            assert np.abs(difference).max() <= 1  # a level


def check_same_values(one: Any, other: Any) -> None:
    """Records that are alike but for the rounding of another batch."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            check_same_values(a, b)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-6)
    else:
        assert one == other


def test_a_batch_of_pixels_of_bytes_or_of_paths(photos: list[Path], toy_folder: Path) -> None:
    explain = Explain(toy_folder / "toy.onnx", classes=["dog", 2], batch=3, maps="float16")
    some = photos[120:126]
    good = [path for path in some if path != photos[123]]
    pixels = [read_image(path) for path in good]
    names = [str(path) for path in good]
    labels = np.arange(5)
    by_pixels = explain({"image": pixels, "path": names, "label": labels})
    by_bytes = explain({"bytes": [path.read_bytes() for path in good], "path": names})
    by_path = explain({"path": [str(path) for path in some]})
    assert by_pixels["label"].to_pylist() == labels.tolist()
    assert "broken" not in by_pixels.column_names
    assert "is not an image" in by_path["error"][3].as_py()
    assert by_path["maps"][3].as_py() is None
    known = by_pixels.select(by_bytes.column_names).to_pylist()
    assert known == by_bytes.to_pylist()
    assert known == by_path.filter(pa.compute.is_null(by_path["error"])).to_pylist()
    for row, image in zip(known, pixels, strict=True):
        array, placement = prepare(image, CARD.image)
        expected = reference(array, np.array([[1, 2]]))
        assert row["map_place"][:2] == [placement.left, placement.top]
        maps = np.reshape(row["maps"], row["map_shape"])
        np.testing.assert_allclose(maps, expected.saliency_map[0], atol=1e-3)
        assert [each["name"] for each in row["explained"]] == ["dog", "boxer"]
        assert [each["score"] for each in row["explained"]] == pytest.approx(
            expected.scores[0, [1, 2]].tolist(), rel=1e-4
        )


def test_files_are_written_where_the_batch_says(
    photos: list[Path], toy_folder: Path, tmp_path: Path
) -> None:
    explain = Explain(toy_folder / "toy.onnx")
    targets = {
        "overlay_to": [str(tmp_path / "new" / "a.png"), None],
        "maps_to": [None, str(tmp_path / "maps" / "b.npy")],
    }
    table = explain({"path": [str(path) for path in photos[:2]], **targets})
    assert table["overlay"].to_pylist() == [str(tmp_path / "new" / "a.png"), None]
    assert (tmp_path / "new" / "a.png").exists()
    written = table["explained"][1].as_py()[0]["map"]
    assert np.load(written).shape == read_image(photos[1]).shape[:2]


def test_frames_of_pandas(photos: list[Path], toy_folder: Path) -> None:
    """As Spark's mapInPandas has them."""
    pd = pytest.importorskip("pandas")
    explain = Explain(toy_folder / "toy.onnx", maps="uint8")
    some = photos[:3]
    frame = pd.DataFrame({"path": map(str, some), "bytes": [each.read_bytes() for each in some]})
    found = explain(frame.to_dict("list")).to_pandas()
    assert found["image"].tolist() == frame["path"].tolist()
    for _, row in found.iterrows():
        assert np.reshape(row.maps, row.map_shape).shape == (1, 32, 32)
    for name, values in explain({"path": list(frame["path"])}).to_pydict().items():
        assert values == explain(frame.to_dict("list")).to_pydict()[name]


def test_what_explain_is_given(toy_folder: Path) -> None:
    file = toy_folder / "toy.onnx"
    with pytest.raises(UnknownNameError, match="class 'boxr'"):
        Explain(file, classes=["boxr"])
    with pytest.raises(InputError, match="the batch has columns picture; expected images as image"):
        Explain(file)({"picture": [0]})
    with pytest.raises(InputError, match=r"drop it: dataset.drop_columns\(\['features'\]\)"):
        Explain(file)({"path": ["a.png"], "features": np.zeros((1, 3))})


@pytest.mark.slow
def test_two_actors_give_the_same_entries(
    two_cpus: Any, photos: list[Path], toy_folder: Path, tmp_path: Path
) -> None:
    request = Request(toy_folder / "toy.onnx", top=2, maps="uint8")
    tasks = [
        Task(path, tmp_path / f"{number}.png" if number % 50 == 0 else None)
        for number, path in enumerate(photos)
    ]
    expected = list(entries(open_job(request), tasks))
    assert sum(1 for each in expected if each.failed) == 1
    check_same(list(ray_entries(request, tasks)), expected)


class Mortal(Explain):
    """An actor that dies once, in the middle of a batch."""

    def __init__(self, given: tuple[Path, Path]) -> None:
        file, self._grave = given
        super().__init__(file, maps="uint8")

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        if "300" in str(list(batch["path"])) and not self._grave.exists():
            self._grave.touch()
            os._exit(1)
        return super().__call__(batch)


@pytest.mark.slow
def test_a_killed_actor_loses_nothing(
    two_cpus: Any, photos: list[Path], toy_folder: Path, tmp_path: Path
) -> None:
    grave = tmp_path / "grave"
    rows = pa.table({"path": [str(path) for path in photos], "number": range(COUNT)})
    tables = mapped(Mortal, (toy_folder / "toy.onnx", grave), rows, "cpu", 1)
    found = pa.concat_tables(tables)
    assert grave.exists()
    assert found["number"].to_pylist() == list(range(COUNT))
    assert found["image"].to_pylist() == rows["path"].to_pylist()
    assert found["error"].null_count == COUNT - 1


@pytest.mark.slow
def test_explain_in_a_data_set_of_ray(
    two_cpus: Any, photos: list[Path], toy_folder: Path, tmp_path: Path
) -> None:
    """As the documentation has it, images read by Ray."""
    import ray.data

    rows = ray.data.read_images(str(photos[0].parent), include_paths=True).map_batches(
        Explain,
        fn_constructor_args=(str(toy_folder / "toy.onnx"),),
        fn_constructor_kwargs={"maps": "uint8"},
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=0.5,  # the rest is for those that read
    )
    rows.write_parquet(str(tmp_path / "out"))
    import pandas as pd

    found = pd.read_parquet(tmp_path / "out").sort_values("image")
    assert [Path(path).name for path in found["image"]] == [path.name for path in photos[::7]]
    assert found["explained"].map(len).eq(1).all()


@pytest.mark.slow
def test_run_by_ray(two_cpus: Any, photos: list[Path], toy_folder: Path, tmp_path: Path) -> None:
    """The command writes the same lines, the same overlays and the same maps."""
    lines = []
    for name, options in (("plain", ()), ("ray", ("--ray",))):
        folder = tmp_path / name
        folder.mkdir()
        where = ("-o", folder / "overlays", "--maps", folder / "maps", *options)
        arguments = (photos[3].parent / "*.png", "--json", folder / "out.jsonl")
        text = done(camcore("run", toy_folder / "toy.onnx", *arguments, *where))
        assert str(photos[3]) in text
        written = (folder / "out.jsonl").read_text().replace(str(folder), "")
        lines.append([json.loads(line) for line in written.splitlines()])
    check_same_values(*lines)
    assert len(list((tmp_path / "ray" / "overlays").iterdir())) == len(lines[0])
    assert len(list((tmp_path / "ray" / "maps").iterdir())) == len(lines[0])
