import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from camcore.adapters.running.video import frame_count, frame_rate, frames, writing_video
from camcore.errors import FileError
from tests.adapters.cli.calls import camcore, done, failed


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames, each of one colour, ten a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with writing_video(path, 10) as write:
        for level in range(12):
            write(np.full((48, 64, 3), (20 * level, 100, 50), np.uint8))
    return path


def test_frames_come_in_order(clip: Path) -> None:
    found = list(frames(clip))
    assert [each.path.name for each in found] == [f"clip.mp4#{number}" for number in range(12)]
    assert frame_rate(clip) == 10
    assert frame_count(clip) == 12
    for number, frame in enumerate(found):
        pixels = frame.pixels()
        assert pixels.shape == (48, 64, 3)
        np.testing.assert_allclose(pixels.mean((0, 1)), (20 * number, 100, 50), atol=6)


def test_run_writes_a_video_of_overlays(toy_folder: Path, clip: Path, tmp_path: Path) -> None:
    output, lines = tmp_path / "overlay.mp4", tmp_path / "out.jsonl"
    call = ("run", toy_folder / "toy.onnx", clip, "-o", output, "--json", lines, "--class", "dog")
    text = done(camcore(*call, "--opacity", "0"))
    assert f"{clip}#11: " in text
    images = [json.loads(line)["image"] for line in lines.read_text().splitlines()]
    assert images == [f"{clip}#{number}" for number in range(12)]
    assert frame_rate(output) == 10
    shown = [frame.pixels() for frame in frames(output)]
    assert len(shown) == 12
    # Below the caption the frame itself, enlarged.
    np.testing.assert_allclose(shown[5][-20:].mean((0, 1)), (100, 100, 50), atol=8)


def test_what_is_no_video(toy_folder: Path, clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("broken")
    file = toy_folder / "toy.onnx"
    assert "broken.mp4 is not a video that OpenCV can read" in failed(camcore("run", file, broken))
    assert "give a video alone" in failed(camcore("run", file, clip, clip))
    message = failed(camcore("run", file, clip, "-o", tmp_path / "o.png"))
    assert "the overlays are written as a video; give a name with .mp4" in message
    lines = ("--json", tmp_path / "o.jsonl")
    message = failed(camcore("run", file, clip, "--resume", *lines))
    assert "--resume is for images; leave it out for a video" in message
    place = tmp_path / "none" / "o.mp4"
    with (
        pytest.raises(FileError, match="cannot be written as a video"),
        writing_video(place, 10) as write,
    ):
        write(np.zeros((8, 8, 3), np.uint8))


def test_sizes_are_made_even(tmp_path: Path) -> None:
    with writing_video(tmp_path / "odd.avi", 5) as write:
        write(np.full((33, 35, 3), 200, np.uint8))
    video = cv2.VideoCapture(str(tmp_path / "odd.avi"))
    assert (video.get(cv2.CAP_PROP_FRAME_HEIGHT), video.get(cv2.CAP_PROP_FRAME_WIDTH)) == (34, 36)
    video.release()
