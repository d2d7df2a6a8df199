"""Small detectors of random weights that find something in noise."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

LABELS = 4
SIZE = (64, 96)


class Pyramid(nn.Module):
    """Three levels, of strides 4, 8 and 16."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        widths = [6, 8, 10]
        blocks = [self._block(3, 6, 4), self._block(6, 8, 2), self._block(8, 10, 2)]
        self.blocks = nn.ModuleList(blocks)
        self.fpn = FeaturePyramidNetwork(widths, self.out_channels)

    @staticmethod
    def _block(given: int, made: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1), nn.BatchNorm2d(made), nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        found = OrderedDict()
        for level, block in enumerate(self.blocks):
            x = found[str(level)] = block(x)
        return self.fpn(found)


class BoxHead(nn.Module):
    """A convolution of regions, so that they can be explained behind it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 12, 3, padding=1)
        self.fc = nn.Linear(12 * 25, 16)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(F.relu(self.conv(x)).flatten(1)))


def image(seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    coarse = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode="bicubic").clamp(0, 1)


def _made(model: Any, head: nn.Module, spread: float) -> Any:
    """In eval mode, with a head whose class scores differ enough for detections."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * math.sqrt(
                2 / fan
            )
            if module.bias is not None:
                module.bias.data.zero_()
    for module in head.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= spread
    return model.eval()


def retinanet() -> nn.Module:
    anchors = AnchorGenerator(((12,), (24,), (48,)), ((0.5, 1.0),) * 3)
    model = RetinaNet(
        Pyramid(), LABELS, min_size=64, max_size=96, anchor_generator=anchors, score_thresh=0.5
    )
    model.detections_per_img = 12
    return _made(model, model.head.classification_head.cls_logits, 0.1)


def fcos() -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    backbone = Pyramid()
    backbone.out_channels = 32  # a multiple of the groups that its head normalises by
    backbone.fpn = FeaturePyramidNetwork([6, 8, 10], 32)
    model = FCOS(backbone, LABELS, min_size=64, max_size=96, anchor_generator=anchors)
    model.detections_per_img = 12
    return _made(model, model.head.classification_head.cls_logits, 1.0)


def ssd() -> nn.Module:
    anchors = DefaultBoxGenerator([[2], [2], [2]], min_ratio=20, max_ratio=80, steps=[4, 8, 16])
    backbone: Any = Pyramid()
    backbone.out_channels = [8] * 3  # of each level, as it wants them
    width_first = SIZE[::-1]
    model = SSD(backbone, anchors, width_first, LABELS, score_thresh=0.3, detections_per_img=12)
    return _made(model, model.head.classification_head, 0.2)


def faster_rcnn() -> nn.Module:
    model = FasterRCNN(
        Pyramid(),
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((12,), (24,), (48,)), ((0.5, 1.0),) * 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=5, sampling_ratio=2),
        box_head=BoxHead(),
        box_predictor=FastRCNNPredictor(16, LABELS),
        rpn_post_nms_top_n_test=30,
        box_detections_per_img=12,
    )
    return _made(model, model.roi_heads.box_predictor.cls_score, 0.2)


def mask_rcnn() -> nn.Module:
    model = MaskRCNN(
        Pyramid(),
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((12,), (24,), (48,)), ((0.5, 1.0),) * 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=5, sampling_ratio=2),
        box_head=BoxHead(),
        box_predictor=FastRCNNPredictor(16, LABELS),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
        mask_head=MaskRCNNHeads(8, (8,), 1),
        mask_predictor=MaskRCNNPredictor(8, 8, LABELS),
        rpn_post_nms_top_n_test=30,
        box_detections_per_img=6,
    )
    return _made(model, model.roi_heads.box_predictor.cls_score, 0.2)  # type: ignore[no-any-return]


def keypoint_rcnn() -> nn.Module:
    model = KeypointRCNN(
        Pyramid(),
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((12,), (24,), (48,)), ((0.5, 1.0),) * 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=5, sampling_ratio=2),
        box_head=BoxHead(),
        box_predictor=FastRCNNPredictor(16, 2),
        keypoint_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
        keypoint_head=KeypointRCNNHeads(8, (8,)),
        keypoint_predictor=KeypointRCNNPredictor(8, 3),
        rpn_post_nms_top_n_test=30,
        box_detections_per_img=6,
    )
    return _made(model, model.roi_heads.box_predictor.cls_score, 0.2)  # type: ignore[no-any-return]


class Candidates(nn.Module):
    """As Ultralytics' YOLO: all candidates of three levels, (1, 4 + N, A), and what they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = Pyramid()
        # Each level by a module of its own, as its layers are named.
        self.levels = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.classes = nn.ModuleList(self._head(LABELS) for _ in range(3))
        self.sizes = nn.ModuleList(self._head(4) for _ in range(3))

    @staticmethod
    def _head(made: int) -> nn.Module:
        norm = nn.BatchNorm2d(8)
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norm, nn.SiLU(), nn.Conv2d(8, made, 1))

    def forward(self, image: Tensor) -> Any:
        levels = [own(x) for own, x in zip(self.levels, self.neck(image).values(), strict=True)]
        scores = [head(x).flatten(2) for head, x in zip(self.classes, levels, strict=True)]
        places = []
        for level, (head, x) in enumerate(zip(self.sizes, levels, strict=True)):
            stride = 4 * 2**level
            rows, columns = torch.meshgrid(*map(torch.arange, x.shape[2:]), indexing="ij")
            middle = torch.stack([columns, rows]).flatten(1) + 0.5
            found = head(x)[0].flatten(1)
            size = 2 + found[2:].sigmoid()
            places.append(torch.cat([middle + found[:2].tanh(), size]) * stride)
        every = torch.cat(scores, 2)
        return torch.cat([torch.cat(places, 1)[None], every.sigmoid()], 1), {"scores": every}


class Queries(nn.Module):
    """As DETR: queries that look at all of a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pyramid._block(3, 6, 4)
        self.projection = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.queries = nn.Parameter(
            3 * torch.randn(9, 8, generator=torch.Generator().manual_seed(2))
        )
        self.classes, self.places = nn.Linear(8, LABELS + 1), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        points = self.projection(self.backbone(image)).flatten(2).transpose(1, 2)
        looks = (self.queries @ points.transpose(1, 2)).softmax(-1)
        found = (looks @ points).tanh() + self.queries
        return {"logits": self.classes(found), "pred_boxes": self.places(found).sigmoid()}


def candidates() -> nn.Module:
    model = Candidates()
    return _made(model, model.classes, 0.5)  # type: ignore[no-any-return]


def queries() -> nn.Module:
    model = Queries()
    return _made(model, model.classes, 1.0)  # type: ignore[no-any-return]


DETECTORS = {"retinanet": retinanet, "fcos": fcos, "ssd": ssd, "faster_rcnn": faster_rcnn}
