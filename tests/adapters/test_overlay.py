from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from camcore.adapters.overlay import (
    COLORMAPS,
    caption,
    check_format,
    colormap_code,
    contrast,
    heatmap,
    most_panels,
    shrunk,
    side_by_side,
    write_image,
    write_map,
)
from camcore.errors import FileError, InputError, UnknownNameError

GREY = np.full((20, 30, 3), 100, np.uint8)
RAMP = np.linspace(0, 1, 20 * 30).reshape(20, 30)


def text_rows(picture: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    return picture[: picture.shape[0] - height]


def test_opacity_one_is_opencvs_colour_map() -> None:
    levels = np.rint(RAMP * 255).astype(np.uint8)
    for name in ("jet", "viridis", "turbo"):
        code = getattr(cv2, f"COLORMAP_{name.upper()}")
        expected = cv2.cvtColor(cv2.applyColorMap(levels, code), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(heatmap(GREY, RAMP, opacity=1, colormap=name), expected)


def test_jet_is_blue_for_low_and_red_for_high() -> None:
    picture = heatmap(GREY, RAMP, opacity=1).astype(int)
    assert picture[0, 0, 2] > 100 > picture[0, 0, 0]
    assert picture[-1, -1, 0] > 100 > picture[-1, -1, 2]


def test_opacity_blends() -> None:
    full, none = heatmap(GREY, RAMP, opacity=1), heatmap(GREY, RAMP, opacity=0)
    np.testing.assert_array_equal(none, GREY)
    half = heatmap(GREY, RAMP, opacity=0.25)
    np.testing.assert_allclose(half, 0.75 * GREY + 0.25 * full, atol=0.51)


def test_image_stays_where_the_map_is_nan() -> None:
    saliency_map = RAMP.copy()
    saliency_map[:, :10] = np.nan
    picture = heatmap(GREY, saliency_map, opacity=1)
    np.testing.assert_array_equal(picture[:, :10], 100)
    np.testing.assert_array_equal(picture[:, 10:], heatmap(GREY, RAMP, opacity=1)[:, 10:])


def test_arguments_stay_as_they_were() -> None:
    image, saliency_map = GREY.copy(), RAMP.copy()
    heatmap(image, saliency_map, boxes=np.array([[1, 1, 9, 9]]))
    caption(image, "text")
    np.testing.assert_array_equal(image, GREY)
    np.testing.assert_array_equal(saliency_map, RAMP)


def test_values_outside_the_range_are_clipped() -> None:
    np.testing.assert_array_equal(
        heatmap(GREY, RAMP * 3 - 1), heatmap(GREY, np.clip(RAMP * 3 - 1, 0, 1))
    )


def test_boxes_lie_on_their_pixels_and_padding_does_not_show() -> None:
    flat = np.zeros((60, 80))
    image = np.full((60, 80, 3), 100, np.uint8)
    plain = heatmap(image, flat, opacity=0)
    boxed = heatmap(image, flat, opacity=0, boxes=np.array([[10, 5, 40, 30], [-1, -1, -1, -1]]))
    changed = np.argwhere((boxed != plain).any(-1))
    assert changed.min(0).tolist() == [5, 10]
    assert changed.max(0).tolist() == [29, 39]
    assert boxed[5, 10:40].tolist() == [[255] * 3] * 30
    np.testing.assert_array_equal(boxed[8:27, 13:37], 100)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (32, 32), (100, 20), (224, 224), (900, 1600)])
def test_caption_is_legible_at_any_size(shape: tuple[int, int]) -> None:
    picture = caption(np.full((*shape, 3), 100, np.uint8), "Siamese cat 0.93")
    factor = max(1, -(-240 // shape[1]))
    assert picture.shape[1] == shape[1] * factor >= 240
    below = shape[0] * factor
    np.testing.assert_array_equal(picture[-below:], 100)
    strip = text_rows(picture, below)
    assert 18 <= strip.shape[0] <= 160
    rows, columns = np.nonzero(strip.max(-1) > 128)
    assert rows.max() - rows.min() >= 8  # the letters' height in pixels
    assert columns.min() > 0
    assert columns.max() < picture.shape[1] - 1


@pytest.mark.parametrize("shape", [(20000, 1), (20000, 3), (1, 20000)])
def test_caption_of_an_extreme_shape_costs_little(shape: tuple[int, int]) -> None:
    """Enlarged until it is 240 wide, the first would have a billion pixels."""
    image = np.full((*shape, 3), 100, np.uint8)
    picture = caption(heatmap(image, np.zeros(shape), opacity=0), "cat")
    below = picture[-shape[0] :]
    np.testing.assert_array_equal(below[:, : shape[1]], image)
    assert (below[:, shape[1] :] == 0).all()
    assert picture.shape[1] == max(240, shape[1])
    assert picture.shape[0] < shape[0] + 200


def test_panels_are_fewer_the_larger_they_are() -> None:
    shapes = [(8, 8), (1000, 8000), (20000, 1), (9000, 9000)]
    counts = [most_panels(np.broadcast_to(np.uint8(0), (*shape, 3))) for shape in shapes]
    assert counts == [16, 8, 13, 1]


def test_map_reads_back(tmp_path: Path) -> None:
    saliency_map = RAMP.copy()
    saliency_map[0, 0] = np.nan
    write_map(tmp_path / "a.npy", saliency_map)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), saliency_map.astype(np.float32))
    write_map(tmp_path / "a.png", saliency_map)
    levels = np.asarray(Image.open(tmp_path / "a.png"))
    assert levels.dtype == np.uint16
    assert levels[0, 0] == 0
    np.testing.assert_allclose(levels.ravel()[1:] / 65535, RAMP.ravel()[1:], atol=1 / 65535)
    with pytest.raises(FileError, match=r"\.npy or \.png"):
        write_map(tmp_path / "a.tiff", saliency_map)


def test_caption_shows_the_text() -> None:
    pictures = [caption(GREY, text) for text in ("cat", "dog", "")]
    assert (pictures[0] != pictures[1]).any()
    assert (text_rows(pictures[2], 20 * 8) == 0).all()


@pytest.mark.parametrize(
    "text", ["a very long class name, " * 9, "two\nlines", "żółw 猫 0.5", "x" * 500]
)
def test_any_text_fits(text: str) -> None:
    picture = caption(GREY, text)
    assert picture.shape[1] == 240
    _, columns = np.nonzero(text_rows(picture, 20 * 8).max(-1) > 128)
    assert columns.max() < 239


def test_side_by_side() -> None:
    other = np.full((20, 10, 3), 7, np.uint8)
    row = side_by_side([GREY, other, GREY])
    assert row.shape == (20, 30 + 4 + 10 + 4 + 30, 3)
    np.testing.assert_array_equal(row[:, :30], GREY)
    np.testing.assert_array_equal(row[:, 34:44], other)
    np.testing.assert_array_equal(side_by_side([GREY]), GREY)


def test_colormap_names() -> None:
    assert {"jet", "hot", "viridis", "inferno"} <= COLORMAPS.keys()
    assert colormap_code("Viridis") == colormap_code("viridis") == cv2.COLORMAP_VIRIDIS
    with pytest.raises(UnknownNameError, match="unknown colour map 'virids'; nearest: viridis"):
        colormap_code("virids")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GREY, RAMP.T), r"map \(30, 20\) and image \(20, 30, 3\) differ"),
        ((GREY[..., 0], RAMP), r"picture is uint8 \(20, 30\)"),
        ((GREY / 255, RAMP), "picture is float64"),
    ],
)
def test_wrong_arrays(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        heatmap(*arguments)


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_wrong_opacity(opacity: float) -> None:
    with pytest.raises(InputError, match="expected 0 to 1"):
        heatmap(GREY, RAMP, opacity=opacity)


def test_pictures_that_do_not_stand_side_by_side() -> None:
    with pytest.raises(InputError, match="one or more of one height"):
        side_by_side([])
    with pytest.raises(InputError, match=r"\(20, 30, 3\), \(10, 30, 3\)"):
        side_by_side([GREY, GREY[:10]])


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tiff"])
def test_written_picture_reads_back(tmp_path: Path, suffix: str) -> None:
    picture = heatmap(GREY, RAMP)
    write_image(tmp_path / f"a{suffix}", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"a{suffix}")), picture)


def test_jpeg(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", GREY)
    assert np.abs(np.asarray(Image.open(tmp_path / "a.jpg")).astype(int) - 100).max() < 3


@pytest.mark.parametrize("name", ["a.xyz", "a", "none/a.png"])
def test_write_errors_leave_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"take \.png or \.jpg|cannot be written"):
        write_image(tmp_path / name, GREY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".webp", ".tiff", ".bmp", ".gif"])
def test_formats_that_can_be_written(tmp_path: Path, suffix: str) -> None:
    check_format(tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", ".xyz", ".psd", ".h5", ".xbm"])
def test_formats_that_cannot_be_written(suffix: str) -> None:
    """Unknown, read alone, listed without an encoder, without colours."""
    with pytest.raises(FileError, match=r"take \.png or \.jpg"):
        check_format(Path(f"a{suffix}"))


def test_pictures_are_shrunk_and_not_enlarged() -> None:
    wide, small = np.zeros((100, 360, 3), np.uint8), np.ones((30, 20, 3), np.uint8)
    assert shrunk(wide, 180).shape == (50, 180, 3)
    assert shrunk(small, 180) is small


def test_contrast_shows_which_map_is_above_and_by_how_much() -> None:
    image = np.full((1, 4, 3), (10, 20, 30), np.uint8)
    first, second = np.array([[1.0, 0.0, 0.5, np.nan]]), np.array([[0.0, 0.5, 0.5, 1.0]])
    only_first, half_second, same, unseen = contrast(image, first, second)[0].tolist()
    assert only_first == [255, 0, 0]
    grey = same[0]
    assert half_second == np.rint([grey / 2, grey / 2, (grey + 255) / 2]).tolist()
    assert same == unseen == [grey] * 3
