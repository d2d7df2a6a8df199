from pathlib import Path
from threading import Event, get_ident
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camcore.adapters import Explanation, load, stream
from camcore.adapters.images import prepare, read_image
from camcore.adapters.stream import Failed, Prepared, batches, explained, prepared_images
from camcore.card import ImageSpec
from camcore.errors import InputError

WHOLE = ImageSpec(None, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of two shapes, and one that is broken."""
    rng = np.random.default_rng(1)
    for number, size in enumerate([(20, 30), (20, 30), (30, 20), (20, 30), (20, 30), (20, 30)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_text("broken")
    return tmp_path


def pictures(folder: Path) -> list[Path]:
    return [folder / f"{number}.png" for number in range(6)]


def test_images_come_in_order_as_they_are_alone(folder: Path) -> None:
    found = list(prepared_images(pictures(folder), WHOLE))
    assert [each.number for each in found] == [*range(6)]
    assert [type(each) for each in found] == [Prepared] * 4 + [Failed, Prepared]
    for each, path in zip(found, pictures(folder), strict=True):
        assert each.path == path
        if isinstance(each, Prepared):
            image = read_image(path)
            np.testing.assert_array_equal(each.image, image)
            array, placement = prepare(image, WHOLE)
            np.testing.assert_array_equal(each.array, array)
            assert each.placement == placement


def test_images_are_read_in_another_thread_and_a_few_ahead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, count, both = set[int](), [0], Event()

    def read(path: Path) -> Any:
        threads.add(get_ident())
        count[0] += 1
        if count[0] == 2:
            both.set()
        return read_image(folder / "0.png")

    monkeypatch.setattr(stream, "read_image", read)
    images = prepared_images([folder / "0.png"] * 1000, WHOLE)
    next(images)
    assert both.wait(10)  # the second is read though nobody asked for it
    images.close()  # type: ignore[attr-defined]
    assert get_ident() not in threads
    assert count[0] <= 1 + 4 + 1


def test_batches_are_of_one_shape_and_keep_the_order(folder: Path) -> None:
    found = list(batches(prepared_images(pictures(folder), WHOLE), most=2))
    numbers = [[each.number for each in batch] for batch, _ in found]
    assert numbers == [[0, 1], [2], [3, 5]]
    assert [[each.number for each in failures] for _, failures in found] == [[], [], [4]]


def test_large_images_are_batches_by_themselves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_MOST_PIXELS", 2 * 2 * 600)
    found = list(batches(prepared_images([folder / "0.png"] * 5, WHOLE), most=8))
    assert [len(batch) for batch, _ in found] == [2, 2, 1]


def test_images_wait_for_others_of_their_shape(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbers(most: int) -> list[list[int]]:
        found = stream.batches_by_shape(prepared_images(pictures(folder), WHOLE), most)
        return [[each.number for each in (*batch, *failures)] for batch, failures in found]

    assert numbers(3) == [[0, 1, 3], [4], [2], [5]]
    assert numbers(1) == [[0], [1], [2], [3], [4], [5]]
    # Where they would be too many pixels together, those of the largest batch wait no longer.
    monkeypatch.setattr(stream, "_MOST_PIXELS", 2 * 2 * 600)
    assert numbers(8) == [[0, 1], [4], [3, 5], [2]]


def test_nothing_gives_no_batch() -> None:
    assert list(batches([], most=2)) == []


def test_rows_of_a_batch_are_what_images_give_alone(folder: Path, toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    ((batch, _),) = batches(prepared_images([folder / "0.png", folder / "1.png"], WHOLE), most=2)

    def explain(images: Any, progress: Any) -> Explanation[Any]:
        return runner(images, [-1, 2], progress=progress)

    for result, image in zip(explained(explain, batch, None), batch, strict=True):
        assert not isinstance(result, Failed)
        alone = runner(image.array, [-1, 2])
        assert result.explanation.keys() == alone.keys()
        for name, value in alone.items():
            np.testing.assert_allclose(result.explanation[name], value, atol=1e-6)


def test_image_that_fails_takes_no_other_with_it(folder: Path, toy_folder: Path) -> None:
    """A batch that fails as a whole is run one by one."""
    runner = load(toy_folder / "toy.onnx")
    ((batch, _),) = batches(prepared_images([folder / "0.png", folder / "1.png"], WHOLE), most=2)
    broken = batch[1].array

    def failing(images: Any, progress: Any) -> Explanation[Any]:
        if any(np.array_equal(image, broken[0]) for image in images):
            raise InputError("the graph failed")
        return runner(images, progress=progress)

    first, second = explained(failing, batch, None)
    assert not isinstance(first, Failed)
    assert second == Failed(1, batch[1].path, "the graph failed")
    assert explained(failing, [], None) == []
