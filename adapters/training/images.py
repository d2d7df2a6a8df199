"""Images: what a classifier learns from, each as the model takes it, with the classes in it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from camcore.adapters.evaluation.annotations import AnnotatedImage
from camcore.adapters.images import prepare, read_image
from camcore.card import ImageSpec
from camcore.errors import InputError

# Of the sides of an image; a smaller window would too often be without what the labels say.
SMALLEST_WINDOW = 0.8


class LabelledImages(Dataset[tuple[Tensor, Tensor]]):
    """Image k as the model takes it, (C, H, W), and 1 for each class that is there, (N,), else 0.

    Crowds and difficult objects are there as well. With a `seed`, a part of the image is shown,
    mirrored or not, another in each `epoch`; without one, what the model's file will see.

    Raises:
        InputError: nothing says to which size images are brought.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        classes: int,
        spec: ImageSpec,
        *,
        seed: int | None = None,
    ) -> None:
        self.images, self.classes, self.seed, self.epoch = images, classes, seed, 0
        self.spec = _of_one_size(spec)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        pixels = read_image(self.images[k].path)
        if self.seed is not None:
            pixels = varied(pixels, np.random.default_rng([self.seed, self.epoch, k]))
        array, _ = prepare(pixels, self.spec)
        target = torch.zeros(self.classes)
        target[torch.from_numpy(self.images[k].labels)] = 1
        return torch.from_numpy(array[0]), target


def parted(
    images: Sequence[AnnotatedImage], share: float, seed: int
) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """The images to learn from, and a share of them that is held out, drawn by a seed.

    Raises:
        InputError: fewer than two are left to learn from.
    """
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    count = round(share * len(images))
    if len(images) - count < 2:
        raise InputError(
            f"{len(images)} images are annotated, and {count} of them held out; expected at least "
            "2 to learn from"
        )
    return [images[k] for k in sorted(order[count:])], [images[k] for k in sorted(order[:count])]


def varied(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A window of the image (H, W, 3) at a random place, every second one mirrored.

    >>> varied(np.zeros((50, 50, 3), np.uint8), np.random.default_rng(0)).shape
    (46, 46, 3)
    """
    share = rng.uniform(SMALLEST_WINDOW, 1)
    height, width = (max(1, round(share * side)) for side in image.shape[:2])
    top = rng.integers(image.shape[0] - height + 1)
    left = rng.integers(image.shape[1] - width + 1)
    window = image[top : top + height, left : left + width]
    return np.ascontiguousarray(window[:, ::-1] if rng.random() < 0.5 else window)


def _of_one_size(spec: ImageSpec) -> ImageSpec:
    """The spec with a square cut out of the middle where only the shorter side is stated: a batch
    is of one size.
    """
    if spec.crop is not None or isinstance(spec.resize, tuple):
        return spec
    if spec.resize is None:
        raise InputError(
            "the model takes images as they are, but those of a batch are to be of one size; leave "
            "an image_spec with resize=(height, width) at the model"
        )
    return replace(spec, crop=(spec.resize, spec.resize))
