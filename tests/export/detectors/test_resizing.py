"""Images are resized and padded as torchvision does, computed by tensors."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from camcore.export.detectors.geometry import Frame
from camcore.export.detectors.resizing import framing_of, takes_any_size
from camcore.export.detectors.seams import without_counting

SIDES = st.integers(8, 400)
HOW: dict[str, dict[str, Any]] = {
    "shorter side": {"min_size": 80, "max_size": 133},
    "several shorter sides": {"min_size": (64, 72, 80), "max_size": 133, "size_divisible": 16},
    "fixed": {"min_size": 1, "max_size": 1, "fixed_size": (48, 40), "size_divisible": 1},
}


@pytest.mark.parametrize("how", HOW)
@given(height=SIDES, width=SIDES)
def test_sizes_and_values(how: str, height: int, width: int) -> None:
    mean, std = [0.5] * 3, [0.25] * 3
    transform = GeneralizedRCNNTransform(image_mean=mean, image_std=std, **HOW[how]).eval()
    detector: Any = SimpleNamespace(transform=transform)
    assert takes_any_size(detector)
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))
    expected, _ = transform([image[0]])
    frame = Frame(*([int(side) for side in size] for size in framing_of(detector)(image)))
    assert frame == ([height, width], [*expected.image_sizes[0]], [*expected.tensors.shape[2:]])
    with without_counting(any_size=True):
        found, _ = transform([image[0]])
    torch.testing.assert_close(found.tensors, expected.tensors)
