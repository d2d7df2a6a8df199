"""From an image file to the graph's input, and from the map back to the image.

The steps are torchvision's: resize the shorter side, cut the centre out, scale to [0, 1],
normalise; with Pillow, whose resizing is the one that torchvision's own weights were measured with.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from camcore.adapters.files import read_bytes
from camcore.card import ImageSpec
from camcore.errors import FileError, InputError

# By torchvision's names.
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


# Only strips of a shape that nobody photographs are resized to more: 2000 times as long as wide.
_MOST_PIXELS = 2**27
_LONGEST = 2**15 - 2  # pixels of a side: OpenCV places no larger map


@dataclass(frozen=True)
class Placement:
    """The part of the original image that the graph saw, in the original's pixels.

    It may reach beyond the image where that was smaller than the crop. `height` and `width` are the
    original's own.
    """

    left: float
    top: float
    right: float
    bottom: float
    height: int
    width: int

    def map_to_original(self, saliency_map: NDArray[Any]) -> NDArray[np.float32]:
        """A map (H, W) of any size on the original image, NaN where the graph saw nothing."""
        import cv2  # here, for who prepares images alone should not wait for it

        rows, columns = saliency_map.shape
        # A pixel's centre lies half a pixel behind its edge, in the image as in the map.
        x = np.arange(self.width, dtype=np.float32) + 0.5
        y = np.arange(self.height, dtype=np.float32) + 0.5
        map_x = (x - self.left) * (columns / (self.right - self.left)) - 0.5
        map_y = (y - self.top) * (rows / (self.bottom - self.top)) - 0.5
        grid_x, grid_y = np.meshgrid(map_x.astype(np.float32), map_y.astype(np.float32))
        placed = cv2.remap(
            np.ascontiguousarray(saliency_map, dtype=np.float32),
            grid_x,
            grid_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        seen_x = (x >= self.left) & (x < self.right)
        seen_y = (y >= self.top) & (y < self.bottom)
        return np.where(seen_y[:, None] & seen_x[None, :], placed, np.float32(np.nan))

    def points_to_original(
        self, points: NDArray[Any], map_size: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Points (..., 2) or boxes (..., 4), x and y on a map of size (H, W), on the original."""
        rows, columns = map_size
        scale = np.array([(self.right - self.left) / columns, (self.bottom - self.top) / rows])
        pairs = np.reshape(points, (*points.shape[:-1], points.shape[-1] // 2, 2))
        placed: NDArray[np.float64] = pairs * scale + np.array([self.left, self.top])
        return placed.reshape(points.shape)

    def peak_to_original(self, saliency_map: NDArray[Any]) -> NDArray[np.float64] | None:
        """Where a map (H, W) is highest, x and y on the original.

        None for a map that is the same, or not finite, everywhere: it has no highest point.
        """
        if not saliency_map.max() > saliency_map.min():
            return None
        rows, columns = saliency_map.shape
        row, column = np.unravel_index(np.argmax(saliency_map), saliency_map.shape)
        return self.points_to_original(np.array([column + 0.5, row + 0.5]), (rows, columns))

    def boxes_to_original(
        self, boxes: NDArray[Any], map_size: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Boxes (..., 4) on a map of size (H, W) on the original, cut off at its edges.

        Padding, of -1 throughout, stays so.
        """
        edges = [self.width, self.height] * 2
        placed = np.clip(self.points_to_original(boxes, map_size), 0, edges)
        return np.where((boxes < 0).all(axis=-1, keepdims=True), -1.0, placed)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """An image file as RGB, uint8 (H, W, 3), turned upright as its EXIF data says.

    Grey and palette images become RGB, 16-bit ones lose their lower 8 bits, transparency is laid
    over white, and of an animation the first frame is taken.

    Raises:
        FileError: the file is missing, is no image that Pillow reads, or is cut off.
    """
    path = Path(path)
    return decode_image(read_bytes(path), path)


def decode_image(content: bytes, name: str | Path) -> NDArray[np.uint8]:
    """The same of the bytes of an image file; errors tell its name."""
    try:
        with Image.open(BytesIO(content)) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise FileError(
            f"{name} is not an image that Pillow can read; expected PNG, JPEG, WebP, TIFF or "
            "the like"
        ) from error
    except Image.DecompressionBombError as error:
        raise FileError(f"{name}: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what its decoders raise
        raise FileError(f"{name} is a damaged image: {error}") from error
    return np.array(_rgb(image, name), dtype=np.uint8)


def prepare(image: NDArray[np.uint8], spec: ImageSpec) -> tuple[NDArray[Any], Placement]:
    """An RGB image (H, W, 3) as the graph's input, and where in the image that lies.

    The input is float32 (1, C, H', W'), scaled and normalised; or, where the spec's dtype is uint8,
    uint8 (1, H', W', C), resized and cropped alone, for the graph does the rest.
    Where the graph accepts one size alone and the spec's resize and crop do not lead to it, the
    image is stretched to that size.

    Raises:
        InputError: not a uint8 RGB image, one too long for its width, or a spec that this function
        cannot follow.

    >>> spec = ImageSpec(None, None, resize=256, crop=(224, 224))
    >>> array, placement = prepare(np.zeros((512, 1024, 3), np.uint8), spec)
    >>> array.shape, placement.left, placement.right
    ((1, 3, 224, 224), 288.0, 736.0)
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"image is {image.dtype} {image.shape}; expected uint8 (H, W, 3) as read_image gives it"
        )
    _check_spec(spec)
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    if spec.channels == 1:
        picture = picture.convert("L")
    resized = _resized(picture.size, spec.resize)
    if math.prod(resized) > _MOST_PIXELS:
        raise InputError(
            f"image is {height} x {width} (height x width), and would be {resized[1]} x "
            f"{resized[0]} with its shorter side resized to {spec.resize}; crop it first"
        )
    picture = _resize(picture, resized, spec)
    seen = (0, 0, *picture.size)
    scale = np.array([width / picture.width, height / picture.height] * 2)
    if spec.crop is not None:
        seen = _centre(picture.size, spec.crop)
        picture = picture.crop(seen)  # black where it reaches beyond the picture
    final = spec.width or picture.width, spec.height or picture.height
    if max(final) > _LONGEST:
        raise InputError(
            f"image is {height} x {width} (height x width), and would be {final[1]} x {final[0]} "
            f"for the graph, whose maps may have {_LONGEST} pixels a side; crop it first"
        )
    picture = _resize(picture, final, spec)
    left, top, right, bottom = (float(edge) for edge in np.array(seen) * scale)
    return _to_input(picture, spec), Placement(left, top, right, bottom, height, width)


def _check_spec(spec: ImageSpec) -> None:
    """Raises an `InputError` where `prepare` cannot do what the spec says."""
    if spec.spatial_ndim != 2:
        raise InputError(f"the graph's images have {' x '.join(spec.space)}; those of files do not")
    if spec.channels not in (1, 3):
        raise InputError(f"the graph takes {spec.channels} channels; an image file has 1 or 3")
    for field, known in (
        ("interpolation", tuple(_FILTERS)),
        ("dtype", ("float32", "uint8")),
        ("colour", ("RGB", "BGR")),
    ):
        if getattr(spec, field) not in known:
            raise InputError(f"{field} {getattr(spec, field)!r} is none of {', '.join(known)}")
    for size in (spec.crop or (1, 1), (spec.height or 1, spec.width or 1)):
        if math.prod(size) > _MOST_PIXELS:
            raise InputError(f"images of {size[0]} x {size[1]} pixels are more than memory is for")
    if spec.dtype == "float32" and not len(spec.mean) == len(spec.std) == spec.channels:
        raise InputError(
            f"mean {spec.mean} and std {spec.std} are not one value for each of the graph's "
            f"{spec.channels} channels; export the model with an image_spec that says them"
        )


def _rgb(image: Image.Image, name: str | Path) -> Image.Image:
    if image.mode.startswith("I"):  # 16 or 32 bits; Pillow's own conversion would clip at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise FileError(f"{name} holds 32-bit values; camcore reads images of 8 and 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise FileError(
            f"{name} holds floating-point values; camcore reads images of 8 and 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _resized(size: tuple[int, int], target: int | tuple[int, int] | None) -> tuple[int, int]:
    """Width and height with the shorter one at the target, rounded down as torchvision does; or
    those of a target (height, width).
    """
    width, height = size
    if target is None:
        return size
    if isinstance(target, tuple):
        return target[1], target[0]
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def _centre(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int, int, int]:
    """The centre crop's left, top, right, bottom, rounded as torchvision rounds."""
    left, top = (
        # A picture that is too small is padded first, with the odd pixel behind it.
        -((want - have) // 2) if want > have else round((have - want) / 2)
        for have, want in zip(size, crop[::-1], strict=True)
    )
    return left, top, left + crop[1], top + crop[0]


def _resize(picture: Image.Image, size: tuple[int, int], spec: ImageSpec) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, _FILTERS[spec.interpolation])


def _to_input(picture: Image.Image, spec: ImageSpec) -> NDArray[Any]:
    pixels = np.array(picture)  # a copy: what Pillow lends is read-only
    pixels = pixels.reshape(*pixels.shape[:2], spec.channels)
    if spec.colour == "BGR":
        pixels = pixels[..., ::-1]
    if spec.dtype == "uint8":
        return np.ascontiguousarray(pixels[None])
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
