"""Maps as pictures: arrays in, uint8 RGB arrays (H, W, 3) out.

A picture is made in visible steps: `heatmap` lays a map (and boxes) over the image, `caption` adds
a strip with the label, `side_by_side` joins several, `write_image` saves the result.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from camcore.adapters.files import writing
from camcore.errors import FileError, InputError, unknown_name

COLORMAPS: dict[str, int] = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name)
    for name in dir(cv2)
    if name.startswith("COLORMAP_")
}

_LEGIBLE_WIDTH = 240  # pixels; a narrower picture has no room for a class name
_FONT_SIZES = (13, 96)
GAP = 4  # pixels between pictures side by side
_TALLEST = 2048  # rows; a narrow picture is not enlarged to more
_MOST_PANELS = 16
_MOST_PANEL_PIXELS = 2**26


def heatmap(
    image: NDArray[np.uint8],
    saliency_map: NDArray[Any],
    *,
    colormap: str = "jet",
    opacity: float = 0.5,
    boxes: NDArray[Any] | None = None,
) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3) under the colours of a map (H, W) with values in [0, 1].

    Opacity 0 shows the image alone, 1 the colours alone. Where the map is NaN, the image stays as
    it is. Boxes (M, 4) are x1, y1, x2, y2 in pixels, with x2 and y2 exclusive; those with a
    negative coordinate everywhere (padding) are left out.

    Raises:
        InputError: sizes that differ, a wrong dtype, or an opacity outside [0, 1].
        UnknownNameError: no such colour map.

    >>> heatmap(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8))).shape
    (8, 8, 3)
    """
    _check_picture(image)
    if saliency_map.shape != image.shape[:2]:
        raise InputError(
            f"map {saliency_map.shape} and image {image.shape} differ in size; resize the map, "
            "or place it with Placement.map_to_original"
        )
    check_opacity(opacity)
    code = colormap_code(colormap)
    seen = np.isfinite(saliency_map)
    levels = np.rint(np.clip(np.where(seen, saliency_map, 0), 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, code)[..., ::-1]
    alpha = np.float32(opacity) * seen[..., None]
    picture = np.rint(image * (1 - alpha) + colours * alpha).astype(np.uint8)
    return picture if boxes is None else _draw_boxes(picture, boxes)


def contrast(
    image: NDArray[np.uint8], first: NDArray[Any], second: NDArray[Any]
) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3), in grey, where one map (H, W) is above another: the first in red, the
    second in blue, the stronger the more it is. Where a map is NaN, the image stays grey.

    >>> grey, one, none = np.zeros((1, 1, 3), np.uint8), np.ones((1, 1)), np.zeros((1, 1))
    >>> contrast(grey, one, none).tolist(), contrast(grey, none, one).tolist()
    ([[[255, 0, 0]]], [[[0, 0, 255]]])
    """
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    above = np.clip(np.nan_to_num(first - second), -1, 1)[..., None]
    colours = np.where(above > 0, (255, 0, 0), (0, 0, 255))
    blended = np.rint(grey * (1 - np.abs(above)) + colours * np.abs(above))
    return np.asarray(blended, dtype=np.uint8)


def colormap_code(name: str) -> int:
    """OpenCV's number for a colour map, by the name behind `COLORMAP_`, in any case.

    Raises:
        UnknownNameError: no such colour map; the message lists the nearest.

    >>> colormap_code("jet")
    2
    """
    if name.lower() not in COLORMAPS:
        raise unknown_name("colour map", name.lower(), COLORMAPS)
    return COLORMAPS[name.lower()]


def check_opacity(opacity: float) -> None:
    """Raises an `InputError` outside of [0, 1]."""
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity is {opacity}; expected 0 to 1")


def caption(
    picture: NDArray[np.uint8], text: str, *, font_size: int | None = None
) -> NDArray[np.uint8]:
    """The picture with a strip above that holds the text, white on black, whatever the picture's
    size.

    A picture too narrow to read a text on is enlarged by a whole number, or, where that would make
    it very tall, stands at the left of a black one; a text that is still too long ends in dots.
    Without a font size, in pixels, it follows from the picture's width.

    >>> caption(np.zeros((32, 32, 3), np.uint8), "boxer 0.93").shape[1]
    256
    """
    _check_picture(picture)
    factor = min(-(-_LEGIBLE_WIDTH // picture.shape[1]), max(1, _TALLEST // picture.shape[0]))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    missing = max(_LEGIBLE_WIDTH - picture.shape[1], 0)
    picture = np.pad(picture, ((0, 0), (0, missing), (0, 0)))
    width = picture.shape[1]
    smallest, largest = _FONT_SIZES
    text = " ".join(text.split())
    room = width - smallest
    # A text's length grows with the font size.
    fitting = int(largest * room / max(ImageFont.load_default(largest).getlength(text), 1))
    size = font_size or max(min(fitting, round(width / 18), largest), smallest)
    font = ImageFont.load_default(size)
    while text and font.getlength(text) > room:
        text = text.removesuffix("...")[:-1] + "..." if len(text) > 4 else ""
    strip = Image.new("RGB", (width, round(size * 1.6)), "black")
    ImageDraw.Draw(strip).text((smallest // 2, strip.height // 2), text, "white", font, anchor="lm")
    return np.concatenate([np.asarray(strip), picture])


def shrunk(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The picture, no wider than that.

    >>> shrunk(np.zeros((80, 160, 3), np.uint8), 40).shape
    (20, 40, 3)
    """
    height, had = picture.shape[:2]
    if had <= width:
        return picture
    size = (width, max(1, round(height * width / had)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures of one height in a row, with a white line between them.

    Raises:
        InputError: no pictures, or pictures of different heights.
    """
    if not pictures or len({picture.shape[0] for picture in pictures}) != 1:
        shapes = [picture.shape for picture in pictures]
        raise InputError(f"pictures have shapes {shapes}; expected one or more of one height")
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(row[1:], axis=1)


def most_panels(image: NDArray[np.uint8]) -> int:
    """How many overlays of an image stand side by side before the picture becomes too large.

    >>> most_panels(np.zeros((480, 640, 3), np.uint8)), most_panels(np.zeros((9000, 9000, 3)))
    (16, 1)
    """
    height, width = image.shape[:2]
    fitting: int = _MOST_PANEL_PIXELS // (height * max(width, _LEGIBLE_WIDTH))
    return max(1, min(_MOST_PANELS, fitting))


def write_map(path: str | Path, saliency_map: NDArray[Any]) -> None:
    """Save a map (H, W): as .npy its values, float32; as .png, for values in [0, 1], 16-bit grey
    levels, 0 where it is NaN.

    Raises:
        FileError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    content = BytesIO()
    if path.suffix == ".npy":
        np.save(content, np.asarray(saliency_map, np.float32))
    elif path.suffix == ".png":
        levels = np.rint(np.clip(np.nan_to_num(saliency_map), 0, 1) * 65535)
        Image.fromarray(levels.astype(np.uint16)).save(content, "PNG")
    else:
        raise FileError(f"{path}: maps are written as .npy or .png")
    _write(path, content.getvalue())


def write_image(path: str | Path, picture: NDArray[np.uint8]) -> None:
    """Save an RGB picture (H, W, 3) in the format that the suffix names.

    Raises:
        FileError: Pillow writes no such format, or the file cannot be written.
        InputError: not a uint8 RGB picture.
    """
    _check_picture(picture)
    path = Path(path)
    # In memory first, so that a failing encoder leaves nothing half-written.
    _write(path, _encode(path, picture))


def _write(path: Path, content: bytes) -> None:
    with writing(path):
        path.write_bytes(content)


def check_format(path: Path) -> None:
    """Raises a `FileError` unless pictures can be written in the format that the suffix names."""
    # By trying: Pillow lists formats whose encoder is missing.
    _encode(path, np.zeros((16, 16, 3), np.uint8))


def _encode(path: Path, picture: NDArray[np.uint8]) -> bytes:
    format_name = Image.registered_extensions().get(path.suffix.lower())
    if format_name not in Image.SAVE:
        raise FileError(f"{path}: no image format for suffix {path.suffix!r}; take .png or .jpg")
    encoded = BytesIO()
    try:
        Image.fromarray(picture).save(encoded, format_name)
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} cannot be written as {format_name}: {error}; take .png or .jpg"
        ) from error
    return encoded.getvalue()


def _check_picture(picture: NDArray[Any]) -> None:
    if (
        picture.dtype != np.uint8
        or picture.ndim != 3
        or picture.shape[2] != 3
        or 0 in picture.shape
    ):
        raise InputError(f"picture is {picture.dtype} {picture.shape}; expected uint8 (H, W, 3)")


def _draw_boxes(picture: NDArray[np.uint8], boxes: NDArray[Any]) -> NDArray[np.uint8]:
    """White boxes on black ones, so that they show on every colour."""
    drawn = Image.fromarray(picture)
    draw = ImageDraw.Draw(drawn)
    line = max(1, round(min(picture.shape[:2]) / 150))
    for x1, y1, x2, y2 in np.reshape(boxes, (-1, 4)).tolist():
        if x2 <= x1 or y2 <= y1:  # padding
            continue
        corners = [round(x1), round(y1), round(x2) - 1, round(y2) - 1]
        draw.rectangle(corners, outline="black", width=2 * line)
        draw.rectangle(corners, outline="white", width=line)
    return np.array(drawn)
