import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camcore.adapters.images import read_image
from camcore.adapters.running.clips import Clip, prepare_clip, read_clip
from camcore.adapters.running.video import frame_rate, frames, writing_video
from camcore.card import ImageSpec
from camcore.errors import FileError
from camcore.export import explain, save
from tests.adapters.cli.calls import camcore, done, failed
from tests.export.moving import SIDE, THING, PerFrame, places, video

SPEC = ImageSpec(None, None, mean=(0.0,) * 3, std=(1.0,) * 3)
SCALE = 2


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "frames.onnx"
    model = PerFrame().knowing_colours().eval()
    images = torch.zeros(1, 6, 3, SIDE, SIDE)
    save(explain(model, images, frames=True, dynamic_size=False, image_spec=SPEC), path)
    return path


@pytest.fixture(scope="module")
def pictures() -> Any:
    """A red square that moves, uint8 (6, H, W, 3), twice as large as the file's images."""
    found = (255 * video(6, 0)[0]).permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return found.repeat(SCALE, axis=1).repeat(SCALE, axis=2)


def test_run_draws_each_frame_of_a_video(file: Path, pictures: Any, tmp_path: Path) -> None:
    clip, output, record = tmp_path / "clip.mp4", tmp_path / "out.mp4", tmp_path / "out.json"
    with writing_video(clip, 9) as write:
        for picture in pictures.repeat(3, axis=0):
            write(picture)
    call = ("run", file, clip, "--class", "0", "-o", output, "--maps", tmp_path, "--json", record)
    assert "map peak (frame, x, y)" in done(camcore(*call, "--opacity", "0"))
    (image,) = json.loads(record.read_text())["images"]
    assert image["frames"] == [1, 4, 7, 10, 13, 16]  # the middle ones of six parts
    (explained,) = image["explained"]
    maps = np.load(explained["map"])
    assert maps.shape == pictures.shape[:3]
    for shown, (row, column) in zip(maps, places(6), strict=True):
        i, j = np.unravel_index(np.argmax(shown), shown.shape)
        assert row <= i / SCALE < row + THING
        assert column <= j / SCALE < column + THING
    at = maps[image["frames"].index(explained["peak"]["frame"])]
    assert at[int(explained["peak"]["y"]), int(explained["peak"]["x"])] > 0.9
    assert frame_rate(output) == pytest.approx(3)
    assert len(list(frames(output))) == 6


def test_frames_of_a_numpy_file_stand_side_by_side(
    file: Path, pictures: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "clip.npy", pictures)
    done(camcore("run", file, tmp_path / "clip.npy", "-o", tmp_path / "out.png"))
    shown = read_image(tmp_path / "out.png")
    assert shown.shape[1] > 6 * pictures.shape[2]


def test_what_is_no_clip(file: Path, pictures: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", pictures[:4])
    np.save(tmp_path / "floats.npy", pictures.astype(np.float32))
    message = failed(camcore("run", file, tmp_path / "short.npy"), code=3)
    assert "short.npy has 4 frames, the file takes 6" in message
    message = failed(camcore("run", file, tmp_path / "floats.npy"), code=3)
    assert "expected the frames of a video, RGB, uint8 (T, H, W, 3)" in message
    (tmp_path / "a.png").touch()
    message = failed(camcore("run", file, tmp_path / "a.png"))
    assert "is an image, and the file takes videos of 6 frames" in message
    message = failed(camcore("run", file, tmp_path / "short.npy", "--ray"))
    assert "--ray is for images; leave it out for a video" in message


def test_all_frames_are_taken_where_any_number_is(pictures: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", pictures)
    assert read_clip(tmp_path / "clip.npy", None).numbers == (0, 1, 2, 3, 4, 5)
    with pytest.raises(FileError, match=r"none\.npy"):
        read_clip(tmp_path / "none.npy", None)


def test_the_axes_are_those_that_the_file_takes(pictures: Any) -> None:
    clip = Clip(pictures, tuple(range(6)), 1.0)
    size = {"height": 32, "width": 40, "depth": 6, "spatial_ndim": 3}
    by_frames, placement = prepare_clip(clip, ImageSpec(frames=True, **size))
    assert by_frames.shape == (1, 6, 3, 32, 40)
    by_channels, _ = prepare_clip(clip, ImageSpec(**size))
    np.testing.assert_array_equal(by_channels, by_frames.swapaxes(1, 2))
    pixels, _ = prepare_clip(clip, ImageSpec(frames=True, dtype="uint8", **size))
    assert pixels.shape == (1, 6, 32, 40, 3)
    flat = np.zeros((6, 32, 40), np.float32)
    assert placement.peak_to_original(flat) is None
    flat[4, 16, 20] = 1
    peak = placement.peak_to_original(flat)
    assert peak is not None
    assert peak[0] == 4
    assert placement.map_to_original(flat).shape == pictures.shape[:3]
