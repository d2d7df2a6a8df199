from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from camcore.adapters.images import Placement, prepare, read_image
from camcore.card import ImageSpec
from camcore.errors import FileError, InputError

# Rows apart, columns apart, channels apart: an image that no flip, turn or swap leaves alike.
PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours and some noise, as photos have."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-20, 21, smooth.shape)
    return np.clip(smooth.astype(int) + noise, 0, 255).astype(np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_rgb_comes_back_as_it_was(tmp_path: Path) -> None:
    given = read_image(saved(tmp_path, Image.fromarray(PIXELS)))
    np.testing.assert_array_equal(given, PIXELS)
    assert given.dtype == np.uint8
    assert given.flags.writeable


writes_ycbcr = pytest.mark.skipif(
    PIL.__version__ < "13", reason="before 13, Pillow does not read the YCbCr TIFF files it writes"
)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", pytest.param("YCbCr", marks=writes_ycbcr)])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    given = read_image(saved(tmp_path, image, "image.tiff"))
    np.testing.assert_array_equal(given, np.asarray(image.convert("RGB")))


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).quantize(256)
    given = read_image(saved(tmp_path, image))
    np.testing.assert_array_equal(given, np.asarray(image.convert("RGB")))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    alpha = np.full((4, 6, 1), 255, np.uint8)
    alpha[0] = 0
    alpha[1] = 128
    path = saved(tmp_path, Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)))
    given = read_image(path)
    np.testing.assert_array_equal(given[0], 255)
    mixed = PIXELS[1] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(given[1], mixed, atol=1)
    np.testing.assert_array_equal(given[2:], PIXELS[2:])


def test_transparent_palette_and_grey(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    path = saved(tmp_path, palette, "palette.png", transparency=0)
    np.testing.assert_array_equal(read_image(path), [[[255] * 3, [10, 20, 30]]])
    grey = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), "LA")
    path = saved(tmp_path, grey, "grey.png")
    np.testing.assert_array_equal(read_image(path), [[[7] * 3, [255] * 3]])


def test_16_bit_grey_keeps_its_upper_8_bits(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    given = read_image(saved(tmp_path, Image.fromarray(values)))
    np.testing.assert_array_equal(given[0, :, 0], [0, 0, 1, 128, 255])
    assert given.shape == (1, 5, 3)


def test_16_bit_colour(tmp_path: Path) -> None:
    values = np.array([[[0, 256, 65535]]], np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), [[[0, 1, 255]]])


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.full((2, 2), 70000, np.int32), "32-bit"), (np.ones((2, 2), np.float32), "floating-point")],
)
def test_deeper_images_are_refused(tmp_path: Path, values: NDArray[Any], message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_image(saved(tmp_path, Image.fromarray(values), "image.tiff"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    given = read_image(saved(tmp_path, Image.fromarray(PIXELS), exif=exif))
    np.testing.assert_array_equal(given, undo[orientation](PIXELS))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(path), np.full((2, 3, 3), [255, 0, 0]))


def test_unreadable_images(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(FileError, match="is a folder"):
        read_image(tmp_path)
    path = tmp_path / "text.png"
    path.write_text("no image")
    with pytest.raises(FileError, match=r"text.png is not an image"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(FileError, match="is not an image"):
        read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_images(tmp_path: Path, kind: str, share: float) -> None:
    encoded = BytesIO()
    Image.fromarray(photo(64, 64)).save(encoded, kind)
    path = tmp_path / "cut"
    path.write_bytes(encoded.getvalue()[: int(share * len(encoded.getvalue()))])
    with pytest.raises(FileError, match=r"cut is (a damaged|not an) image"):
        read_image(path)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.fromarray(photo(40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(FileError, match="exceeds limit"):
        read_image(path)


SIZES = [(300, 400), (400, 300), (256, 256), (224, 500), (97, 331), (1000, 50), (33, 47), (3, 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("resize", "crop"),
    [
        (256, (224, 224)),
        (232, (224, 224)),
        (65, (64, 64)),
        (64, (65, 90)),
        (None, (101, 60)),
        (50, None),
    ],
)
def test_equals_torchvision(
    size: tuple[int, int], resize: int | None, crop: tuple[int, int] | None
) -> None:
    image = photo(*size)
    steps: list[Any] = [v2.Resize(resize, antialias=True)] if resize else []
    steps += [v2.CenterCrop(crop)] if crop else []
    steps += [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    expected = v2.Compose(steps)(Image.fromarray(image)).numpy()
    given, _ = prepare(image, ImageSpec(None, None, resize=resize, crop=crop))
    assert given.dtype == np.float32
    assert given.flags.c_contiguous
    np.testing.assert_allclose(given, expected[None], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_interpolation_equals_torchvision(name: str) -> None:
    image = photo(120, 160)
    resized = v2.Resize(64, InterpolationMode(name))(Image.fromarray(image))
    spec = ImageSpec(None, None, resize=64, interpolation=name, dtype="uint8")
    given, _ = prepare(image, spec)
    np.testing.assert_array_equal(given[0], np.asarray(resized))


def test_image_of_its_own_size() -> None:
    given, placement = prepare(PIXELS, ImageSpec(None, None, mean=(0, 0, 0), std=(1, 1, 1)))
    np.testing.assert_allclose(given[0].transpose(1, 2, 0), PIXELS / 255, atol=1e-7)
    assert placement == Placement(0, 0, 6, 4, height=4, width=6)


def test_fixed_size_stretches_the_whole_image() -> None:
    given, placement = prepare(photo(30, 50), ImageSpec(24, 32))
    assert given.shape == (1, 3, 24, 32)
    assert placement == Placement(0, 0, 50, 30, height=30, width=50)


def test_fixed_size_wins_over_crop() -> None:
    given, placement = prepare(photo(60, 80), ImageSpec(24, 32, resize=30, crop=(30, 30)))
    assert given.shape == (1, 3, 24, 32)
    assert placement == Placement(10, 0, 70, 60, height=60, width=80)


def test_uint8_grey_and_bgr() -> None:
    given, _ = prepare(PIXELS, ImageSpec(None, None, dtype="uint8"))
    np.testing.assert_array_equal(given, PIXELS[None])
    given, _ = prepare(PIXELS, ImageSpec(None, None, dtype="uint8", colour="BGR"))
    np.testing.assert_array_equal(given, PIXELS[None, ..., ::-1])
    assert given.flags.c_contiguous
    given, _ = prepare(PIXELS, ImageSpec(None, None, channels=1, mean=(0.0,), std=(1.0,)))
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))
    np.testing.assert_allclose(given[0, 0], grey / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("image", "spec", "message"),
    [
        (PIXELS.astype(np.float32), ImageSpec(None, None), "image is float32"),
        (PIXELS[..., 0], ImageSpec(None, None), r"uint8 \(4, 6\); expected uint8 \(H, W, 3\)"),
        (PIXELS[:0], ImageSpec(None, None), r"\(0, 6, 3\)"),
        (PIXELS, ImageSpec(None, None, channels=4), "4 channels"),
        (PIXELS, ImageSpec(None, None, interpolation="area"), "'area' is none of nearest"),
        (
            PIXELS,
            ImageSpec(None, None, dtype="float16"),
            "dtype 'float16' is none of float32",
        ),
        (PIXELS, ImageSpec(None, None, colour="YUV"), "colour 'YUV' is none of RGB, BGR"),
        (PIXELS, ImageSpec(None, None, channels=1), "one value for each of the graph's 1"),
    ],
)
def test_what_prepare_refuses(image: Any, spec: ImageSpec, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(image, spec)


@pytest.mark.parametrize("size", SIZES)
def test_uint8_is_what_float32_is_made_of(size: tuple[int, int]) -> None:
    """Whatever the graph does not do is done alike, and lies where it lay."""
    spec = ImageSpec(None, None, resize=50, crop=(40, 48), interpolation="bicubic")
    pixels, placement = prepare(photo(*size), replace(spec, dtype="uint8"))
    assert (pixels.dtype, pixels.shape, pixels.flags.c_contiguous) == (
        np.uint8,
        (1, 40, 48, 3),
        True,
    )
    image, same_placement = prepare(photo(*size), spec)
    assert placement == same_placement
    scaled = (pixels / 255 - spec.mean) / spec.std
    np.testing.assert_allclose(image, scaled.transpose(0, 3, 1, 2), rtol=0, atol=2e-6)


def test_uint8_at_a_fixed_size() -> None:
    pixels, _ = prepare(photo(30, 50), ImageSpec(24, 32, dtype="uint8"))
    assert pixels.shape == (1, 24, 32, 3)


def test_strip_that_would_fill_the_memory_is_refused() -> None:
    spec = ImageSpec(None, None, resize=256, crop=(224, 224))
    for strip in (np.zeros((1, 60_000, 3), np.uint8), np.zeros((60_000, 1, 3), np.uint8)):
        with pytest.raises(InputError, match=r"60000 .* with its shorter side resized to 256; cr"):
            prepare(strip, spec)
    array, _ = prepare(np.zeros((1, 1_500, 3), np.uint8), spec)
    assert array.shape == (1, 3, 224, 224)


def test_a_spot_comes_back_to_where_it_was() -> None:
    """Whatever is cropped away: a bright spot in the input marks the spot in the image."""
    for height, width, y, x in ((300, 400, 150, 260), (517, 333, 300, 101), (90, 90, 20, 70)):
        image = np.zeros((height, width, 3), np.uint8)
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
        array, placement = prepare(image, ImageSpec(None, None, resize=256, crop=(224, 224)))
        placed = placement.map_to_original(array[0, 0])
        assert placed.shape == (height, width)
        bright = np.argwhere(placed > 0.9 * np.nanmax(placed))
        np.testing.assert_allclose(bright.mean(0), (y, x), atol=0.5)
        rows, columns = np.nonzero(array[0, 0] > 0)
        centre = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        placed_point = placement.points_to_original(centre, (224, 224))
        np.testing.assert_allclose(placed_point, (x + 0.5, y + 0.5), atol=0.6)


def test_outside_the_crop_is_nan() -> None:
    placement = Placement(10, 0, 70, 60, height=60, width=80)
    placed = placement.map_to_original(np.ones((7, 7)))
    assert np.isnan(placed[:, :10]).all()
    assert np.isnan(placed[:, 70:]).all()
    np.testing.assert_array_equal(placed[:, 10:70], 1)


def test_map_of_the_same_size_is_unchanged() -> None:
    saliency_map = np.random.default_rng(0).random((30, 40), dtype=np.float32)
    placed = Placement(0, 0, 40, 30, height=30, width=40).map_to_original(saliency_map)
    np.testing.assert_array_equal(placed, saliency_map)


def test_enlarged_map_equals_linear_interpolation() -> None:
    ramp = np.linspace(0, 1, 8, dtype=np.float32)[None].repeat(2, 0)
    placed = Placement(0, 0, 80, 20, height=20, width=80).map_to_original(ramp)
    expected = np.interp((np.arange(80) + 0.5) / 10 - 0.5, np.arange(8), ramp[0])
    np.testing.assert_allclose(placed[7], expected, atol=0.005)  # cv2.remap: 1/32 of a map pixel


def test_boxes_to_original() -> None:
    placement = Placement(10, 0, 70, 60, height=60, width=80)
    boxes = np.array([[[0, 0, 30, 15]], [[15, 5, 20, 30]]])
    expected = [[[10, 0, 70, 30]], [[40, 10, 50, 60]]]
    np.testing.assert_allclose(placement.points_to_original(boxes, (30, 30)), expected)


def test_boxes_end_where_the_image_does_and_padding_stays() -> None:
    """The crop reached beyond the image, which is 40 wide, on both sides."""
    placement = Placement(-10, 0, 50, 60, height=60, width=40)
    boxes = np.array([[0, 0, 30, 15], [10, 5, 20, 30], [0, 0, 5, 5], [-1, -1, -1, -1]])
    expected = [[0, 0, 40, 30], [10, 10, 30, 60], [0, 0, 0, 10], [-1, -1, -1, -1]]
    np.testing.assert_allclose(placement.boxes_to_original(boxes, (30, 30)), expected)


@pytest.mark.parametrize(
    "spec", [ImageSpec(10**6, 10**6), ImageSpec(None, None, crop=(10**5, 10**5))]
)
def test_sizes_that_no_memory_holds(spec: ImageSpec) -> None:
    with pytest.raises(InputError, match=r"images of 10+ x 10+ pixels are more than memory is for"):
        prepare(np.zeros((8, 8, 3), np.uint8), spec)


def test_an_image_so_thin_that_no_map_of_it_could_be_placed() -> None:
    thin = np.zeros((300, 1, 3), np.uint8)
    with pytest.raises(InputError, match="would be 38400 x 128 for the graph"):
        prepare(thin, ImageSpec(None, None, resize=128))
    array, _ = prepare(thin, ImageSpec(None, None, resize=128, crop=(128, 128)))
    assert array.shape == (1, 3, 128, 128)


def test_no_boxes_are_placed_as_none() -> None:
    _, placement = prepare(np.zeros((8, 8, 3), np.uint8), ImageSpec(None, None))
    assert placement.boxes_to_original(np.zeros((0, 4)), (8, 8)).shape == (0, 4)
