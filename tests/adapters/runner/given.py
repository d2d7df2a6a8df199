"""What the tests give to runners, and what a toy makes of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.runner import Explanation
from camcore.card import ImageSpec
from tests.adapters.toy import CARD, reference

SUFFIXES = [".onnx", ".pt", ".pt2"]


SPEC = ImageSpec(None, None)


def image(batch: int = 2, height: int = 8, width: int = 9, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, 3, height, width), dtype=np.float32)


def close(given: Explanation[Any], images: NDArray[np.float32], ids: object) -> None:
    expected = reference(images, np.asarray(ids))
    np.testing.assert_allclose(np.asarray(given.scores), expected.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(given.classes), expected.classes)
    np.testing.assert_allclose(
        np.asarray(given.saliency_map), expected.saliency_map, rtol=1e-5, atol=1e-6
    )


def pixels(batch: int = 2, height: int = 8, width: int = 9, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def normalised(given: NDArray[np.uint8]) -> NDArray[np.float32]:
    scaled = (given / 255 - CARD.image.mean) / CARD.image.std
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)


def table(batch: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((batch, 2), dtype=np.float32)
