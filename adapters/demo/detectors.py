"""The demo's detectors: what the classifier learnt, and small heads that find boxes in it.

Each is torchvision's own: `RetinaNet`, `FasterRCNN` and `SSD` with the head of SSDlite. Their
backbone is the shipped classifier, frozen, so that their files hold the necks and heads alone.
Label 0 is the background, as it is for all of torchvision's detectors.
"""

from collections import OrderedDict
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign

from camcore.adapters.demo import CLASS_NAMES, DETECTOR_NAMES, load_scene_net
from camcore.adapters.demo.network import IMAGE_MEAN, IMAGE_SIDE, IMAGE_STD
from camcore.errors import FileError

LABEL_NAMES = ("background", *CLASS_NAMES)

# Sides of the anchors at stride 8 and 16: objects are 26 to 58 pixels large where the classifier
# learnt.
_ANCHORS = ((28, 36), (44, 56))
_CHANNELS = 64
# What is found with a score above this; overlapping boxes of a label are one; at most so many.
SURE, _OVERLAP, _MOST = 0.3, 0.4, 20

# What every file of weights leaves out: it is the classifier's.
_BODY = "backbone.body."


class Pyramid(nn.Module):
    """Two levels of features from the classifier's last three blocks, at stride 8 and 16.

    Image (B, 3, H, W) -> `{"0": (B, 64, H/8, W/8), "1": (B, 64, H/16, W/16)}`.

    >>> import torch
    >>> [tuple(level.shape) for level in Pyramid()(torch.zeros(1, 3, 128, 128)).values()]
    [(1, 64, 16, 16), (1, 64, 8, 8)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = _CHANNELS
        self.body = load_scene_net().requires_grad_(False)
        self.lateral2 = nn.Conv2d(64, _CHANNELS, 1)
        self.lateral3 = nn.Conv2d(128, _CHANNELS, 1)
        self.lateral4 = nn.Conv2d(128, _CHANNELS, 1)
        self.fine = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.coarse = nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        block2 = self.body.block2(self.body.block1(self.body.stem(image)))
        block3 = self.body.block3(block2)
        block4 = self.body.block4(block3)
        joined = self.lateral2(block2) + self.lateral3(block3) + self.lateral4(block4)
        fine = F.relu(self.fine(F.relu(joined)))
        return OrderedDict([("0", fine), ("1", F.relu(self.coarse(fine)))])

    def train(self, mode: bool = True) -> "Pyramid":
        """The classifier's batch norms keep the statistics that they have."""
        super().train(mode)
        self.body.eval()
        return self


_NORMALISED: dict[str, Any] = {"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD}
# The shorter side becomes as long as those that the classifier learnt from.
_IMAGE: dict[str, Any] = {
    "min_size": IMAGE_SIDE,
    "max_size": 2 * IMAGE_SIDE,
    **_NORMALISED,
}


def retinanet() -> RetinaNet:
    return RetinaNet(
        Pyramid(),
        len(LABEL_NAMES),
        anchor_generator=AnchorGenerator(_ANCHORS, ((1.0,),) * 2),
        score_thresh=SURE,
        nms_thresh=_OVERLAP,
        detections_per_img=_MOST,
        **_IMAGE,
    )


def faster_rcnn() -> FasterRCNN:
    side = 5
    return FasterRCNN(
        Pyramid(),
        rpn_anchor_generator=AnchorGenerator(_ANCHORS, ((1.0,),) * 2),
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=30,
        # Boxes of 44 pixels and more are looked at in the coarser level.
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], side, sampling_ratio=2, canonical_scale=44),
        box_head=FastRCNNConvFCHead((_CHANNELS, side, side), [_CHANNELS], [128]),
        box_predictor=FastRCNNPredictor(128, len(LABEL_NAMES)),
        box_score_thresh=SURE,
        box_nms_thresh=_OVERLAP,
        box_batch_size_per_image=64,
        box_detections_per_img=_MOST,
        **_IMAGE,
    )


def ssdlite() -> SSD:
    # Two boxes a level: of its scale, and of the mean with the next one's.
    scales = [side / IMAGE_SIDE for side in (28, 46, 72)]
    anchors = DefaultBoxGenerator([[], []], scales=scales)
    return SSD(
        Pyramid(),
        anchors,
        (IMAGE_SIDE, IMAGE_SIDE),
        len(LABEL_NAMES),
        head=SSDLiteHead(
            [_CHANNELS] * 2, anchors.num_anchors_per_location(), len(LABEL_NAMES), nn.BatchNorm2d
        ),
        score_thresh=SURE,
        nms_thresh=_OVERLAP,
        detections_per_img=_MOST,
        **_NORMALISED,
    )


DETECTORS: dict[str, Callable[[], nn.Module]] = dict(
    zip(DETECTOR_NAMES, (retinanet, faster_rcnn, ssdlite), strict=True)
)


def own_state(detector: nn.Module) -> dict[str, Tensor]:
    """What a detector has learnt by itself, without the classifier in it."""
    return {
        name: value for name, value in detector.state_dict().items() if not name.startswith(_BODY)
    }


def load_scene_detector(name: str, weights: Path | None = None) -> nn.Module:
    """One of `DETECTORS` with the shipped weights or those of a file, in eval mode, on the CPU.

    It takes a list of images (3, H, W) in [0, 1]. How good it is stands in `scene_detectors.json`.

    >>> import torch
    >>> found = load_scene_detector("retinanet")([torch.zeros(3, 128, 128)])
    >>> sorted(found[0])
    ['boxes', 'labels', 'scores']
    """
    detector = DETECTORS[name]()
    with as_file(files("camcore.adapters.demo") / f"scene_{name}.safetensors") as shipped:
        path = weights or shipped
        state = {key: value.float() for key, value in load_file(path).items()}
    if own_state(detector).keys() != state.keys():
        raise FileError(f"{path} holds other weights than {name} has")
    detector.load_state_dict(detector.state_dict() | state)
    return detector.eval()
