"""What is measured of detectors: models of random weights, and an image."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import detection

from camcore.export import READINGS, is_detector
from camcore.export.detectors.whole import Whole

# Of boxes that overlap a trained detector scores so many for each one that is left.
_CANDIDATES = 10

_CLASSES = ("cls_score", "cls_logits")


class Subject(NamedTuple):
    """A detector, how its output is read unless it is torchvision's, and an image (1, 3, H, W)."""

    detector: nn.Module
    reading: Callable[..., Any] | None
    image: Tensor


def make_subject(name: str, image: Tensor, count: int) -> Subject:
    """A detector in eval mode that finds `count` objects in the image, which it does not enlarge.

    Scores of random weights say nothing, so they are spread, and the threshold is where ten times
    as many candidates are above it.

    Args:
        name: a builder of `torchvision.models.detection`, or a yaml of Ultralytics'.

    Raises:
        ImportError: Ultralytics is not installed.
        ValueError: fewer than `count` are found.
    """
    torch.manual_seed(0)
    make = _ultralytics if name.endswith(".yaml") else _torchvision
    detector = make(name, max(image.shape[2:]))
    _calibrate_norms(detector, image)
    _spread_scores(detector)
    reading = _limit(detector, image, count)
    found = len(_scores(detector, reading, image))
    if found != count:
        raise ValueError(f"{name} finds {found} objects, expected {count}")
    return Subject(detector, reading, image)


def make_picture(height: int, width: int) -> Tensor:
    """Smooth blobs, (1, 3, H, W) in [0, 1], always the same."""
    noise = torch.rand(1, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    large = nn.functional.interpolate(noise, (height, width), mode="bicubic")
    return large.clamp(0, 1)


def _torchvision(name: str, side: int) -> nn.Module:
    make: Callable[..., nn.Module] = getattr(detection, name)
    # SSD's are of the size that their anchors are made for.
    sizes = {} if name.startswith("ssd") else {"min_size": side, "max_size": side}
    return make(weights=None, weights_backbone=None, **sizes).eval()


def _ultralytics(name: str, side: int) -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    model: nn.Module = DetectionModel(name, verbose=False)
    return model.eval()


@torch.no_grad()
def _calibrate_norms(detector: nn.Module, image: Tensor) -> None:
    """Batch norms know the image: untrained, they let activations vanish or grow with depth.

    And its mirror image: of a level of one point, one image tells no variance.
    """
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all that it sees
        norm.reset_running_stats()
        norm.train()
    images = torch.cat([image, image.flip(-1)])
    detector(list(images) if is_detector(detector) else images)
    for norm in norms:
        norm.eval()


def _spread_scores(detector: Any) -> None:
    """Classes differ, of regions so much that one stands out: few are found as two labels."""
    if is_detector(detector):
        modules = detector.named_modules()
        layers = [module for name, module in modules if name.endswith(_CLASSES)]
    else:
        layers = [head[-1] for head in detector.model[-1].cv3]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.2 if isinstance(layer, nn.Linear) else 0.05)
        nn.init.zeros_(layer.bias)


def _limit(detector: Any, image: Tensor, count: int) -> Callable[..., Any] | None:
    """Have a detector find at most `count` objects, those among its best candidates; the reading
    that does so, unless that is the detector's own.
    """
    candidates = _CANDIDATES * count
    if not is_detector(detector):
        every = partial(READINGS["yolo"], score=0.0, iou=1.0, most=candidates)
        least = float(_scores(detector, every, image).min())
        return partial(READINGS["yolo"], score=least, most=count)
    holder = getattr(detector, "roi_heads", detector)
    overlap = holder.nms_thresh
    holder.score_thresh, holder.nms_thresh, holder.detections_per_img = 0.0, 1.0, candidates
    holder.score_thresh = float(_scores(detector, None, image).min())
    holder.nms_thresh, holder.detections_per_img = overlap, count
    return None


@torch.no_grad()
def _scores(detector: nn.Module, reading: Callable[..., Any] | None, image: Tensor) -> Tensor:
    return Whole(detector, reading)(image)[2]
