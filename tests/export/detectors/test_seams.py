"""What takes the place of functions of torchvision computes the same, and only while asked."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection import transform
from torchvision.ops import MultiScaleRoIAlign, boxes, poolers

from camcore.export.detectors.seams import without_counting
from tests.export.detectors.nets import image, keypoint_rcnn


def random_boxes(generator: torch.Generator, count: int) -> torch.Tensor:
    corners = 50 * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + 1 + 30 * torch.rand(count, 2, generator=generator)], dim=1)


@given(seed=st.integers(0, 999), count=st.integers(0, 40), threshold=st.sampled_from([0.1, 0.5]))
def test_suppression_by_class(seed: int, count: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    found = random_boxes(generator, count)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    expected = boxes.batched_nms(found, scores, labels, threshold)
    with without_counting():
        assert torch.equal(boxes.batched_nms(found, scores, labels, threshold), expected)


@given(seed=st.integers(0, 999), count=st.integers(0, 6))
def test_masks_in_the_image(seed: int, count: int) -> None:
    """Boxes are clipped to the image, and then enlarged by the masks' padding."""
    generator = torch.Generator().manual_seed(seed)
    found = (random_boxes(generator, count) - 10).clamp(0, 49)
    masks = torch.rand(count, 1, 7, 7, generator=generator)
    expected = transform.paste_masks_in_image(masks, found, (50, 60))
    with without_counting():
        given_back = transform.paste_masks_in_image(masks, found, (50, 60))
    torch.testing.assert_close(given_back, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 3])
def test_features_of_regions(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    names = [str(n) for n in range(levels)]
    features = {
        name: torch.randn(1, 4, 64 >> n, 64 >> n, generator=generator)
        for n, name in enumerate(names)
    }
    pool = MultiScaleRoIAlign(names, output_size=3, sampling_ratio=2, canonical_scale=32)
    regions = [random_boxes(generator, 25) * 4]
    expected = pool(features, regions, [(256, 256)])
    with without_counting():
        given_features = pool(features, regions, [(256, 256)])
    torch.testing.assert_close(given_features, expected, rtol=0, atol=0)


def test_another_thread_has_its_own() -> None:
    """Of images of other sizes, too, which a graph's stand-ins may not be made for."""
    model = keypoint_rcnn()
    large = image(3, (90, 120))
    with torch.no_grad():
        (expected,) = model([large[0]])
        with without_counting(any_size=True), ThreadPoolExecutor(1) as pool:
            (found,) = pool.submit(torch.no_grad()(model), [large[0]]).result()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def fail_inside() -> None:
    with without_counting():
        assert boxes.batched_nms.__module__ == "camcore.export.detectors.seams"
        raise ValueError("inside")


def test_torchvision_gets_its_functions_back() -> None:
    own = boxes.batched_nms, poolers._multiscale_roi_align
    with pytest.raises(ValueError, match="inside"):
        fail_inside()
    assert (boxes.batched_nms, poolers._multiscale_roi_align) == own
