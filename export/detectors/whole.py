"""Whole: a detector as a function of one image, eager and traced."""

import warnings
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.fx.experimental import _config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD

from camcore.errors import ExportError, InputError
from camcore.export.detectors.readings import Reading
from camcore.export.detectors.resizing import keep_bounds, takes_any_size
from camcore.export.detectors.seams import without_counting
from camcore.export.trace.checks import check_example, check_model
from camcore.export.trace.graphs import first_line
from camcore.export.trace.sizes import try_another_size
from camcore.export.trace.state import kept_state
from camcore.export.trace.subject import MODEL
from camcore.export.trace.trace import Trace, functional

DETECTORS = (GeneralizedRCNN, RetinaNet, FCOS, SSD)

# What every detector returns of an image, in the order of the graph's outputs.
OUTPUTS = ("boxes", "labels", "scores")


def outputs_of_detector(detector: nn.Module) -> tuple[str, ...]:
    """The names of all that a detector returns of an image."""
    heads = getattr(detector, "roi_heads", None)
    if not isinstance(heads, RoIHeads):
        return OUTPUTS
    masks = ("masks",) if heads.has_mask() else ()
    points = ("keypoints", "keypoints_scores") if heads.has_keypoint() else ()
    return (*OUTPUTS, *masks, *points)


class Whole(nn.Module):
    """From an image (1, C, H, W) to `boxes` (D, 4), `labels` (D,) and `scores` (D,), and what else
    the detector finds: `masks` (D, 1, H, W), `keypoints` (D, N, 3) and their scores (D, N).

    Args:
        detector: the user's; it is held, not changed.
        reading: what makes detections of its output; None of one of `DETECTORS`.
    """

    def __init__(self, detector: nn.Module, reading: Reading | None) -> None:
        super().__init__()
        self._reading, self._names = reading, outputs_of_detector(detector)
        self.add_module(MODEL, detector)
        # Not `eval()`, which would change the user's model.
        self.training = False

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        detector = self.get_submodule(MODEL)
        if self._reading is not None:
            return _checked(_read(self._reading, detector(image), image))
        (found,) = detector([image[0]])
        return tuple(found[name] for name in self._names)


def _read(reading: Reading, output: Any, image: Tensor) -> Any:
    if torch.compiler.is_exporting():
        return reading(output, image)
    try:
        return reading(output, image)
    except Exception as error:
        raise InputError(
            f"the reading of detections fails: {type(error).__name__}: {first_line(error)}"
        ) from error


def _checked(found: Any) -> tuple[Tensor, ...]:
    parts = found if isinstance(found, tuple) else ()
    shapes = [tuple(map(str, each.shape)) for each in parts if isinstance(each, Tensor)]
    lengths = {shape[0] for shape in shapes if shape and shape[0].isdecimal()}
    if (
        len(shapes) != len(parts)
        or [len(shape) for shape in shapes] != [2, 1, 1]
        or shapes[0][1] != "4"
        or len(lengths) > 1
        or parts[1].is_floating_point()
    ):
        told = ", ".join(
            f"({', '.join(map(str, each.shape))}) {each.dtype}"
            if isinstance(each, Tensor)
            else type(each).__name__
            for each in parts
        )
        raise InputError(
            f"the reading of detections returns {told or type(found).__name__}, expected a tuple "
            "of boxes (D, 4), labels (D,) of whole numbers and scores (D,)"
        )
    return tuple(parts)


def is_detector(model: Any) -> bool:
    """Whether a model takes a list of images and finds boxes in each, as torchvision's do."""
    return isinstance(model, DETECTORS)


def trace_detector(
    detector: nn.Module,
    image: Tensor,
    reading: Reading | None = None,
    dynamic_size: bool | None = None,
) -> Trace:
    """The graph of `Whole`; each node knows the module it stems from.

    Args:
        dynamic_size: True asks for free height and width, False fixes the image's, None frees them
            where the detector allows it.

    Raises:
        InputError: training mode, weights that are not finite, no image, or a reading that gives
            something else than detections.
        ExportError: `torch.export` cannot trace the detector, or not with the freedom asked for.
    """
    check_model(detector)
    whole = Whole(detector, reading)
    size, reason = tuple(image.shape[2:]), "on request"
    with kept_state(detector), torch.no_grad():
        check_example(whole, (image,))
        if dynamic_size is not False:
            try:
                return Trace(_of_any_size(whole, image, bool(dynamic_size)), size, True)
            except Exception as error:
                if dynamic_size:
                    raise ExportError(
                        "the detector cannot be exported with free height and width: "
                        f"{first_line(error)}. Leave dynamic_size out, or set it to False"
                    ) from error
                reason = f"because the detector fixes them: {first_line(error)}"
        try:
            graph = _capture(whole, image, any_size=False)
        except Exception as error:
            raise ExportError(
                f"torch.export cannot trace the detector: {first_line(error)}"
            ) from error
    return Trace(graph, size, False, (f"height and width are fixed {reason}",))


def _of_any_size(whole: Whole, image: Tensor, asked: bool) -> fx.GraphModule:
    detector = whole.get_submodule(MODEL)
    if not is_detector(detector):
        try_another_size(whole, (image,), attention=asked)
    elif not takes_any_size(detector):
        raise ExportError("it resizes images in a way of its own")
    graph = _capture(whole, image, any_size=True)
    check_another_size(whole, graph, image)
    return graph


def _capture(whole: Whole, image: Tensor, any_size: bool) -> fx.GraphModule:
    free = dict.fromkeys((2, 3), Dim.DYNAMIC) if any_size else {}
    with (
        # The plain form of attention has gradient rules; the fused kernels have none.
        sdpa_kernel(SDPBackend.MATH),
        without_counting(any_size),
        warnings.catch_warnings(),
        _config.patch(backed_size_oblivious=any_size),  # type: ignore[attr-defined]
    ):
        warnings.filterwarnings("ignore", message="The tensor attribute.* assigned during export")
        with redirect_stderr(StringIO()):  # where PyTorch prints what it has of a failed graph
            exported = torch.export.export(whole, (image,), dynamic_shapes=(free,))
        graph = functional(exported, whole, MODEL)
    detector = whole.get_submodule(MODEL)
    if any_size and is_detector(detector):
        keep_bounds(graph, detector)
    return graph


# By how much each side grows to see what a detector and its graph make of another size.
_GROWTH = (23, 9)


def check_another_size(whole: Whole, graph: fx.GraphModule, image: Tensor) -> None:
    """Raises an `ExportError` where the graph finds something else than the detector in an image
    of another size, or the detector does not take it.
    """
    height, width = (side + more for side, more in zip(image.shape[2:], _GROWTH, strict=True))
    other = nn.functional.interpolate(image, (height, width), mode="bilinear")
    expected, found = whole(other), graph.forward(other)
    for own, their in zip(found, expected, strict=True):
        if own.shape != their.shape or not torch.allclose(own, their, rtol=1e-3, atol=1e-3):
            raise ExportError(
                f"traced for every size, it finds something else at {height} x {width}"
            )
