"""Whole: a detector as a function of one image, traced."""

import warnings
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD

from camcore.errors import ExportError
from camcore.export.detectors.seams import without_counting
from camcore.export.trace.checks import check_example, check_model
from camcore.export.trace.graphs import first_line
from camcore.export.trace.state import kept_state
from camcore.export.trace.subject import MODEL
from camcore.export.trace.trace import functional

DETECTORS = (GeneralizedRCNN, RetinaNet, FCOS, SSD)

# What a detector returns of each image, in the order of the graph's outputs.
OUTPUTS = ("boxes", "labels", "scores")


class Whole(nn.Module):
    """From an image (1, C, H, W) to `boxes` (D, 4), `labels` (D,) and `scores` (D,)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.add_module(MODEL, detector)
        # Not `eval()`, which would change the user's model.
        self.training = False

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.get_submodule(MODEL)([image[0]])
        return tuple(found[name] for name in OUTPUTS)


def is_detector(model: Any) -> bool:
    """Whether a model takes a list of images and finds boxes in each, as torchvision's do."""
    return isinstance(model, DETECTORS)


def trace_detector(detector: nn.Module, image: Tensor) -> fx.GraphModule:
    """The graph of `Whole`, of the image's size; each node knows the module it stems from.

    Raises:
        InputError: training mode, weights that are not finite, or no image.
        ExportError: `torch.export` cannot trace the detector.
    """
    check_model(detector)
    whole = Whole(detector)
    with kept_state(detector), torch.no_grad(), without_counting(), warnings.catch_warnings():
        check_example(whole, (image,))
        warnings.filterwarnings("ignore", message="The tensor attribute.* assigned during export")
        try:
            with redirect_stderr(StringIO()):  # where PyTorch prints what it has of a failed graph
                exported = torch.export.export(whole, (image,))
            return functional(exported, whole, MODEL)
        except Exception as error:
            raise ExportError(
                f"torch.export cannot trace the detector: {first_line(error)}"
            ) from error
