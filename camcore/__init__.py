"""Class activation maps as pure functions on arrays, and as model files that explain themselves.

This package holds the kernels and imports neither torch nor onnx. `camcore.export` turns a torch
model into a file; `camcore.adapters` runs that file.
"""

from typing import TYPE_CHECKING

from camcore.ablation import (
    ablate,
    ablation_weights,
    ablationcam,
    channels_to_ablate,
    linear_ablation,
    take_channels,
)
from camcore.attention import legrad
from camcore.boxes import (
    box_scores,
    component_boxes,
    label_components,
    largest_component,
    otsu_threshold,
    renormalize_in_boxes,
    threshold_masks,
)
from camcore.errors import (
    CamcoreError,
    ExportError,
    FileError,
    InputError,
    ProofError,
    UnknownNameError,
)
from camcore.factorization import Concepts, concept_scores, dff, dff_start
from camcore.fullgrad import fullgrad_bias, fullgrad_input
from camcore.guided import guided_backprop, guided_gradcam
from camcore.layouts import channels_last_to_first, tokens_to_grid
from camcore.masking import (
    iscam,
    iscam_masks,
    iscam_weights,
    linear_reciprocam,
    point_masks,
    reciprocam,
    rise_map,
    rise_masks,
    score_masks,
    scorecam,
    scorecam_weights,
    sscam,
    sscam_masks,
    sscam_weights,
    strongest_channels,
)
from camcore.methods import METHODS, Method, get_method
from camcore.metrics import box_iou, pointing_game, threshold_box
from camcore.noise import normal_noise, uniform_noise
from camcore.projection import (
    eigencam,
    eigengradcam,
    first_component,
    kpcacam,
    segeigencam,
    smooth_by_component,
)
from camcore.scaling import aggregate, normalize, postprocess, resize
from camcore.targets import select_classes
from camcore.weighting import (
    activation,
    activation_weights,
    cam,
    cam_weights,
    fem,
    fem_weights,
    gradcam,
    gradcam_elementwise,
    gradcam_elementwise_weights,
    gradcam_plus_plus,
    gradcam_plus_plus_weights,
    gradcam_weights,
    hirescam,
    hirescam_weights,
    layercam,
    layercam_weights,
    randomcam,
    randomcam_weights,
    shapleycam,
    shapleycam_weights,
    smoothgradcam_plus_plus,
    smoothgradcam_plus_plus_weights,
    weighted_sum,
    xgradcam,
    xgradcam_weights,
)

if TYPE_CHECKING:
    __version__: str
else:
    # On demand: what reads a distribution's metadata takes as long to import as all the rest.
    def __getattr__(name):
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("camcore")


__all__ = [
    "METHODS",
    "CamcoreError",
    "Concepts",
    "ExportError",
    "FileError",
    "InputError",
    "Method",
    "ProofError",
    "UnknownNameError",
    "ablate",
    "ablation_weights",
    "ablationcam",
    "activation",
    "activation_weights",
    "aggregate",
    "box_iou",
    "box_scores",
    "cam",
    "cam_weights",
    "channels_last_to_first",
    "channels_to_ablate",
    "component_boxes",
    "concept_scores",
    "dff",
    "dff_start",
    "eigencam",
    "eigengradcam",
    "fem",
    "fem_weights",
    "first_component",
    "fullgrad_bias",
    "fullgrad_input",
    "get_method",
    "gradcam",
    "gradcam_elementwise",
    "gradcam_elementwise_weights",
    "gradcam_plus_plus",
    "gradcam_plus_plus_weights",
    "gradcam_weights",
    "guided_backprop",
    "guided_gradcam",
    "hirescam",
    "hirescam_weights",
    "iscam",
    "iscam_masks",
    "iscam_weights",
    "kpcacam",
    "label_components",
    "largest_component",
    "layercam",
    "layercam_weights",
    "legrad",
    "linear_ablation",
    "linear_reciprocam",
    "normal_noise",
    "normalize",
    "otsu_threshold",
    "point_masks",
    "pointing_game",
    "postprocess",
    "randomcam",
    "randomcam_weights",
    "reciprocam",
    "renormalize_in_boxes",
    "resize",
    "rise_map",
    "rise_masks",
    "score_masks",
    "scorecam",
    "scorecam_weights",
    "segeigencam",
    "select_classes",
    "shapleycam",
    "shapleycam_weights",
    "smooth_by_component",
    "smoothgradcam_plus_plus",
    "smoothgradcam_plus_plus_weights",
    "sscam",
    "sscam_masks",
    "sscam_weights",
    "strongest_channels",
    "take_channels",
    "threshold_box",
    "threshold_masks",
    "tokens_to_grid",
    "uniform_noise",
    "weighted_sum",
    "xgradcam",
    "xgradcam_weights",
]
