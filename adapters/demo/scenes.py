"""Scenes with known objects: shapes of eight classes on textured backgrounds or on a photograph.

Only its shape tells an object's class. Size, position, rotation, colour, texture, outline and
shadow are drawn alike for every class, and alike again for the distractors, which are shapes and
strokes of no class.

Every function takes its randomness as a `numpy.random.Generator` and keeps no state: equal seeds
give equal scenes.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError

CLASS_NAMES = ("disc", "ring", "square", "triangle", "star", "cross", "heart", "arrow")

Contour = NDArray[np.float64]
"""(n, 2) corners x, y of a closed line; y points down."""

MOST_OBJECTS = 3
SMALLEST_SIDE = 96
SMALLEST_DIAMETER = 26
LARGEST_DIAMETER = 64
# Of the scene's shorter side. Larger, three objects would rarely find room beside each other.
LARGEST_SHARE = 0.45
# Between objects, and between them and the edge: room for the outline, so boxes never touch.
MARGIN = 4
# A shadow falls up to 4 pixels aside and is blurred over about 6 more.
SHADOW_REACH = 10

# fillPoly and polylines take fixed-point coordinates with this many fractional bits.
_SHIFT = 6


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    `image` is uint8 (H, W, 3), RGB; `labels` index `CLASS_NAMES`, one per object; `boxes` are int64
    (n, 4), x1, y1, x2, y2 in pixels, half-open, tight around `masks`, bool (n, H, W).
    """

    image: NDArray[np.uint8]
    labels: tuple[int, ...]
    boxes: NDArray[np.int64]
    masks: NDArray[np.bool_]


def make_scene(
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (128, 128),
    labels: Sequence[int] | None = None,
    photograph: NDArray[np.uint8] | None = None,
) -> Scene:
    """A scene of `size` (height, width) with one to three objects of different classes, or with
    exactly `labels`.

    An empty list of labels gives a scene without objects. With `photograph`, uint8 (h, w, 3), that
    picture is the background, cut about its middle to the scene's shape, and nothing but the
    objects is painted on it.

    Raises:
        InputError: a side below 96 pixels, labels that are unknown or more than three, or a
            photograph that is not uint8 RGB.

    >>> scene = make_scene(np.random.default_rng(0), labels=[CLASS_NAMES.index("star")])
    >>> scene.image.shape, scene.boxes.shape
    ((128, 128, 3), (1, 4))
    """
    if min(size) < SMALLEST_SIDE:
        raise InputError(f"a scene needs sides of at least {SMALLEST_SIDE} pixels, got {size}")
    if labels is None:
        count = int(rng.integers(1, MOST_OBJECTS + 1))
        labels = [int(label) for label in rng.permutation(len(CLASS_NAMES))[:count]]
    elif not set(labels) <= set(range(len(CLASS_NAMES))):
        raise InputError(
            f"labels must be numbers from 0 to {len(CLASS_NAMES) - 1}, got {list(labels)}"
        )
    elif len(labels) > MOST_OBJECTS:
        raise InputError(f"a scene holds at most {MOST_OBJECTS} objects, got {len(labels)}")

    if photograph is None:
        image = _clutter(rng, _background(rng, size))
    else:
        image = _unit(cut_to_size(photograph, size))
    masks = np.zeros((len(labels), *size), dtype=np.bool_)
    for i, (centre, diameter) in enumerate(_layout(rng, size, len(labels))):
        contours = _place(rng, _CLASS_CONTOURS[CLASS_NAMES[labels[i]]], centre, diameter)
        masks[i] = _paint_shape(rng, image, contours) >= 0.5
    boxes = np.array([_tight_box(mask) for mask in masks], dtype=np.int64).reshape(-1, 4)
    if photograph is None:
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        image += np.float32(rng.uniform(0, 0.03)) * grain
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Scene(pixels, tuple(labels), boxes, masks)


def cut_to_size(photograph: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The largest middle part of `photograph`, (h, w, 3), with the shape of `size`, resized to it.

    Raises:
        InputError: not uint8 (h, w, 3).
    """
    if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3:
        raise InputError(
            f"a photograph is uint8 (h, w, 3), got {photograph.dtype} {photograph.shape}"
        )
    height, width = photograph.shape[:2]
    scale = min(height / size[0], width / size[1])
    h, w = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - h) // 2, (width - w) // 2
    part = photograph[top : top + h, left : left + w]
    resized = cv2.resize(part, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def _circle(radius: float = 1.0) -> Contour:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return _polar(radius, angle)


def _polar(radius: NDArray[np.float64] | float, angle: NDArray[np.float64]) -> Contour:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _star(points: int, inner: float) -> Contour:
    angle = np.arange(2 * points) * np.pi / points - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _polar(radius, angle)


def _heart() -> Contour:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1) / 16


def _crescent() -> Contour:
    outer, inner = _circle()[16:49], _circle()[16:49]
    return np.concatenate([outer, (inner * [0.45, 1.0])[::-1]])


_BAR = np.array([[-1, -0.28], [1, -0.28], [1, 0.28], [-1, 0.28]])
_CROSS = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])[:, None] * np.array(
    [[0.3, 1.0], [0.3, 0.3], [1.0, 0.3]]
)
_CROSS[1::2] = _CROSS[1::2, ::-1]  # every second corner is walked the other way round

# More than one contour: the inner ones are holes.
_CLASS_CONTOURS: dict[str, tuple[Contour, ...]] = {
    "disc": (_circle(),),
    "ring": (_circle(), _circle(0.58)),
    "square": (np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]),),
    "triangle": (_star(3, 0.5),),
    "star": (_star(5, 0.42),),
    "cross": (_CROSS.reshape(-1, 2),),
    "heart": (_heart(),),
    "arrow": (np.array([[-1, -0.3], [0, -0.3], [0, -0.8], [1, 0], [0, 0.8], [0, 0.3], [-1, 0.3]]),),
}
_DISTRACTOR_CONTOURS: tuple[tuple[Contour, ...], ...] = (
    (_BAR,),
    (_crescent(),),
    (np.array([[-1, -1], [-0.4, -1], [-0.4, 0.4], [1, 0.4], [1, 1], [-1, 1]]),),  # an L
    (_circle() * [1.0, 0.4],),  # an ellipse
    (np.array([[-1, 0.6], [0, -0.7], [1, 0.6], [0.45, 0.6], [0, 0.0], [-0.45, 0.6]]),),  # a chevron
)


def _place(
    rng: np.random.Generator,
    contours: tuple[Contour, ...],
    centre: NDArray[np.float64],
    diameter: float,
) -> tuple[Contour, ...]:
    """The contours turned by a random angle, then scaled: their box's longer side is `diameter`.

    Scaling after turning keeps the size from telling the class: every class has the same
    distribution of box sizes.
    """
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = [contour @ turn for contour in contours]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    scale = diameter / (high - low).max()
    return tuple((contour - (low + high) / 2) * scale + centre for contour in turned)


def _layout(
    rng: np.random.Generator, size: tuple[int, int], count: int
) -> list[tuple[NDArray[np.float64], float]]:
    """Centre (x, y) and diameter of `count` objects, `MARGIN` apart and away from the edge."""
    largest = min(LARGEST_DIAMETER, LARGEST_SHARE * min(size))
    while True:
        diameters = rng.uniform(SMALLEST_DIAMETER, largest, count)
        reach = diameters[:, None] / 2 + MARGIN
        extent = np.array([size[1], size[0]])
        centres = reach + rng.random((count, 2)) * (extent - 2 * reach)
        gaps = np.abs(centres[:, None] - centres) - (reach[:, None] + reach - MARGIN)
        apart = gaps.max(axis=-1) >= 0
        if (apart | np.eye(count, dtype=np.bool_)).all():
            return list(zip(centres, diameters.tolist(), strict=True))


def _tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def _paint_shape(
    rng: np.random.Generator, image: NDArray[np.float32], contours: tuple[Contour, ...]
) -> NDArray[np.float32]:
    """Paint the shape onto `image`, in place; return how much of each pixel (H, W) it covers."""
    # Only a window around the shape is touched: most of a scene is not under its shadow.
    low = np.maximum(np.floor(contours[0].min(axis=0)).astype(int) - SHADOW_REACH, 0)
    high = np.ceil(contours[0].max(axis=0)).astype(int) + SHADOW_REACH
    window = slice(low[1], high[1]), slice(low[0], high[0])
    part = image[window]
    size = part.shape[0], part.shape[1]
    corners = [np.rint((contour - low) * 2**_SHIFT).astype(np.int32) for contour in contours]
    inside = np.zeros(size, dtype=np.uint8)
    cv2.fillPoly(inside, corners, 255, cv2.LINE_AA, _SHIFT)
    coverage = _unit(inside)

    below = np.tensordot(coverage, part, axes=2) / max(coverage.sum(), 1)
    colour = _contrasting_colour(rng, below)
    fill = np.broadcast_to(colour, part.shape)
    if rng.random() < 0.6:
        other = colour + rng.uniform(0.3, 0.7) * (_colour(rng) - colour)
        fill = _blend(fill, other, _pattern(rng, size))

    if rng.random() < 0.5:
        shift = rng.uniform(1, 4, 2)
        move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
        shadow = cv2.warpAffine(coverage, move, (size[1], size[0]))
        part = part * (1 - 0.5 * cv2.GaussianBlur(shadow, (0, 0), 2.0)[:, :, None])
    part = _blend(part, fill, coverage)
    if rng.random() < 0.5:
        edge = np.zeros(size, dtype=np.uint8)
        cv2.polylines(edge, corners, True, 255, int(rng.integers(1, 3)), cv2.LINE_AA, _SHIFT)
        line = _unit(edge)
        tone = colour * 0.3 if rng.random() < 0.5 else 1 - (1 - colour) * 0.3
        part = _blend(part, tone, line)
        coverage = np.maximum(coverage, line)
    image[window] = part
    whole = np.zeros(image.shape[:2], dtype=np.float32)
    whole[window] = coverage
    return whole


def _clutter(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strokes, letters and shapes of no class, more of them on a larger image."""
    size = image.shape[0], image.shape[1]
    area = size[0] * size[1] / 128**2
    for _ in range(rng.poisson(2.0 * area)):
        stroke = np.zeros(size, dtype=np.uint8)
        thickness = int(rng.integers(1, 4))
        if rng.random() < 0.7:
            steps = rng.normal(0, 14, (int(rng.integers(2, 7)), 2))
            points = rng.random(2) * size[::-1] + steps.cumsum(axis=0)
            corners = [np.rint(points * 2**_SHIFT).astype(np.int32)]
            cv2.polylines(stroke, corners, False, 255, thickness, cv2.LINE_AA, _SHIFT)
        else:
            letter = "ABEFHKMNSWZ"[rng.integers(11)]  # none that holds a ring, a cross or an arrow
            origin = int(rng.integers(size[1])), int(rng.integers(size[0]))
            font, scale = cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.5, 1.5)
            cv2.putText(stroke, letter, origin, font, scale, 255, thickness, cv2.LINE_AA)
        image = _blend(image, _colour(rng), _unit(stroke))
    for _ in range(rng.poisson(1.0 * area)):
        centre = rng.random(2) * size[::-1]
        diameter = rng.uniform(SMALLEST_DIAMETER, LARGEST_DIAMETER)
        kind = int(rng.integers(len(_DISTRACTOR_CONTOURS)))
        contours = _place(rng, _DISTRACTOR_CONTOURS[kind], centre, diameter)
        _paint_shape(rng, image, contours)
    return image


def _background(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    first = _colour(rng)
    second = first + rng.uniform(0.1, 0.8) * (_colour(rng) - first)
    image = _blend(np.broadcast_to(first, (*size, 3)), second, _pattern(rng, size))
    if rng.random() < 0.5:
        third = second + rng.uniform(0.1, 0.5) * (_colour(rng) - second)
        image = _blend(image, third, _pattern(rng, size))
    return image


def _pattern(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """A random gradient, cloud, stripes or blobs: (H, W), 0 to 1."""
    pattern: NDArray[np.float32]
    kind = rng.integers(4)
    if kind == 0:
        ramp = _ramp(rng, size)
        pattern = (ramp - ramp.min()) / np.ptp(ramp)
    elif kind == 1:
        pattern = np.zeros(size, dtype=np.float32)
        for octave in range(1, 6):
            pattern += _cloud(rng, size, 128 / 2**octave) / 2**octave
    elif kind == 2:
        bend = rng.uniform(0, 12) * _cloud(rng, size, 48)
        wave = np.sin((_ramp(rng, size) + bend) * (2 * np.pi / rng.uniform(5, 24)))
        pattern = np.clip(0.5 + rng.uniform(0.4, 3) * wave, 0, 1)
    else:
        edge = rng.uniform(2, 12)
        pattern = np.clip(0.5 + edge * (_cloud(rng, size, rng.uniform(10, 32)) - 0.5), 0, 1)
    return pattern


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Distance in pixels along a random direction, (H, W)."""
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.ogrid[: size[0], : size[1]]
    return np.asarray(xs * np.cos(angle) + ys * np.sin(angle), dtype=np.float32)


def _cloud(rng: np.random.Generator, size: tuple[int, int], cell: float) -> NDArray[np.float32]:
    """Smooth noise, (H, W), about 0 to 1, that changes over `cell` pixels."""
    coarse = rng.random((int(size[0] / cell) + 2, int(size[1] / cell) + 2), dtype=np.float32)
    smooth = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, dtype=np.float32)


def _colour(rng: np.random.Generator) -> NDArray[np.float32]:
    saturation, value = rng.uniform(0.05, 0.9), rng.uniform(0.15, 1.0)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, value), dtype=np.float32)


def _contrasting_colour(
    rng: np.random.Generator, ground: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A colour that stands out from `ground`, (3,)."""
    while True:
        colour = _colour(rng)
        if np.linalg.norm(colour - ground) >= 0.4:
            return colour


def _unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """0 to 255 as 0 to 1."""
    return np.asarray(pixels, dtype=np.float32) / np.float32(255)


def _blend(
    image: NDArray[np.float32], colour: NDArray[np.float32], alpha: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`colour`, (3,) or (H, W, 3), over `image` with opacity `alpha` (H, W)."""
    return image + (colour - image) * alpha[:, :, None]
