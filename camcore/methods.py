"""Methods: the registry. A method is a kernel and one row here."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from camcore import ablation, attention, fullgrad, guided, masking, projection, weighting
from camcore._arrays import Array
from camcore.errors import unknown_name
from camcore.scaling import How

Needs = Literal[
    "activations",
    "gradients",
    "class_weights",
    "noisy_gradients",
    "bias_gradients",
    "guided_gradients",
    "gradients_and_guided_gradients",
    "gradients_and_hessian_products",
    "attention_gradients",
    "ablated_scores",
    "masked_scores",
    "point_scores",
    "random_mask_scores",
]

# What a kernel is told of the layer, by whoever calls it.
_OF_THE_LAYER = {"spatial_ndim", "prefix_tokens"}


@dataclass(frozen=True)
class Method:
    """How a class activation map is made.

    The kernel takes activations (..., C, *S) and what else the method `needs`: nothing, their
    gradients of the same shape, the classifier's weights (..., C), or the gradients
    (n, ..., C, *S) at n noisy images; it returns raw maps (..., *S). FullGrad's takes, in place of
    activations, the biases (C,) of each layer, LeGrad's gradients of an attention
    (..., heads, T, T) and the grid of its patches. Guided gradients are those at the image; the map
    has its size, and guided backpropagation's kernel takes them alone. `passes` is what it costs
    beside the prediction; a method that is not `class_specific` gives the same map for every class.

    `relu`, the `target` that is explained and how the maps of several layers `combine` are the
    method's defaults; `sampling` are options of whoever calls the kernel.

    A method that sums weighted activations over channels says its `weights` too: a function of the
    same arrays and options, which gives (..., C), or (..., C, *S) if they are `per_point`. They are
    for `camcore.smooth_by_component`; the kernel alone is faster.
    """

    name: str
    kernel: Callable[..., Array]
    needs: Needs
    summary: str
    passes: str
    paper: str
    relu: bool = True
    class_specific: bool = True
    weights: Callable[..., Array] | None = None
    per_point: bool = False
    target: str = "logit"
    combine: How = "mean"
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The kernel's own options and those of the sampling, with their defaults.

        >>> get_method("gradcam++").options
        {'eps': 1e-06}
        """
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.kernel).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and name not in _OF_THE_LAYER
        } | self.sampling


def _by_scores(weights: Callable[..., Array]) -> Callable[..., Array]:
    """Weights that are made of scores alone, asked for with what the kernel is given."""

    def weigh(activations: Array, *scores: Array, spatial_ndim: int = 2, **options: Any) -> Array:
        return weights(*scores, **options)

    return weigh


_NONE = "none"
_TAIL_PASSES = (
    "a pass of the layers behind the chosen one for each {}, one pass back for them all if those "
    "layers are linear"
)
_BACKWARD = "one backward pass of the layers behind the chosen one"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "cam",
            weighting.cam,
            needs="class_weights",
            summary="the classifier's weights; needs average pooling and one linear layer behind",
            passes=_NONE,
            paper="https://arxiv.org/abs/1512.04150",
            relu=False,
            weights=weighting.cam_weights,
        ),
        Method(
            "activation",
            weighting.activation,
            needs="activations",
            summary="the mean over channels",
            passes=_NONE,
            paper="https://github.com/openvinotoolkit/openvino_xai",
            class_specific=False,
            weights=weighting.activation_weights,
        ),
        Method(
            "gradcam",
            weighting.gradcam,
            needs="gradients",
            summary="channels weighted by their mean gradient",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/1610.02391",
            weights=weighting.gradcam_weights,
        ),
        Method(
            "gradcam++",
            weighting.gradcam_plus_plus,
            needs="gradients",
            summary="positive gradients only, balanced between large and small objects",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/1710.11063",
            weights=weighting.gradcam_plus_plus_weights,
        ),
        Method(
            "smoothgradcam++",
            weighting.smoothgradcam_plus_plus,
            needs="noisy_gradients",
            summary="Grad-CAM++ of gradients averaged over noisy copies of the image",
            passes="a pass of the model and one backward pass for each of `samples` images",
            paper="https://arxiv.org/abs/1908.01224",
            sampling={"samples": 4, "std": 0.3, "seed": 0},
        ),
        Method(
            "xgradcam",
            weighting.xgradcam,
            needs="gradients",
            summary="channels weighted by their gradient where they are active",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/2008.02312",
            weights=weighting.xgradcam_weights,
        ),
        Method(
            "hirescam",
            weighting.hirescam,
            needs="gradients",
            summary="each point weighted by its gradient",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/2011.08891",
            weights=weighting.hirescam_weights,
            per_point=True,
        ),
        Method(
            "gradcam-elementwise",
            weighting.gradcam_elementwise,
            needs="gradients",
            summary="positive products of gradient and activation",
            passes=_BACKWARD,
            paper="https://github.com/jacobgil/pytorch-grad-cam",
            weights=weighting.gradcam_elementwise_weights,
            per_point=True,
        ),
        Method(
            "layercam",
            weighting.layercam,
            needs="gradients",
            summary="each point weighted by its positive gradient; sharp at early layers",
            passes=_BACKWARD,
            paper="https://ieeexplore.ieee.org/document/9462463",
            weights=weighting.layercam_weights,
            per_point=True,
        ),
        Method(
            "eigencam",
            projection.eigencam,
            needs="activations",
            summary="the activations' first principal component",
            passes=_NONE,
            paper="https://arxiv.org/abs/2008.00299",
            class_specific=False,
        ),
        Method(
            "eigengradcam",
            projection.eigengradcam,
            needs="gradients",
            summary="the first principal component of gradient times activation",
            passes=_BACKWARD,
            paper="https://github.com/jacobgil/pytorch-grad-cam",
        ),
        Method(
            "segeigencam",
            projection.segeigencam,
            needs="gradients",
            summary="the first principal component of activations times the gradients' size",
            passes=_BACKWARD,
            paper="https://doi.org/10.3390/app15137562",
        ),
        Method(
            "kpcacam",
            projection.kpcacam,
            needs="activations",
            summary="the activations' first component under a sigmoid kernel",
            passes=_NONE,
            paper="https://arxiv.org/abs/2410.00267",
            class_specific=False,
        ),
        Method(
            "fem",
            weighting.fem,
            needs="activations",
            summary="channels weighted by how many of their points stand out",
            passes=_NONE,
            paper="https://hal.science/hal-02963298",
            class_specific=False,
            weights=weighting.fem_weights,
        ),
        Method(
            "shapleycam",
            weighting.shapleycam,
            needs="gradients_and_hessian_products",
            summary="Grad-CAM of gradients halfway to no activation; of one layer",
            passes=f"{_BACKWARD}, one of that and what it goes through",
            paper="https://arxiv.org/abs/2501.06261",
            weights=weighting.shapleycam_weights,
            target="rest",
        ),
        Method(
            "finercam",
            weighting.gradcam,
            needs="gradients",
            summary="what tells the class from those most like it; Grad-CAM of that contrast",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/2501.11309",
            weights=weighting.gradcam_weights,
            target="finer",
        ),
        Method(
            "refinecam",
            weighting.gradcam_plus_plus,
            needs="gradients",
            summary="what several layers agree on: the product of their Grad-CAM++ maps",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/2605.14641",
            weights=weighting.gradcam_plus_plus_weights,
            combine="product",
        ),
        Method(
            "fullgrad",
            fullgrad.fullgrad_bias,
            needs="bias_gradients",
            summary="the score told apart into what the image and what every bias contributes",
            passes="one backward pass of the whole model",
            paper="https://arxiv.org/abs/1905.00780",
            relu=False,
            combine="sum",
        ),
        Method(
            "legrad",
            attention.legrad,
            needs="attention_gradients",
            summary="vision transformers: how far attending to each patch raises the score",
            passes="one backward pass of the layers behind the first attention",
            paper="https://arxiv.org/abs/2404.03214",
        ),
        Method(
            "guided-backprop",
            guided.guided_backprop,
            needs="guided_gradients",
            summary="what speaks for the class at each ReLU, down to the pixels; sum of colours",
            passes="one backward pass of the whole model",
            paper="https://arxiv.org/abs/1412.6806",
        ),
        Method(
            "guided-gradcam",
            guided.guided_gradcam,
            needs="gradients_and_guided_gradients",
            summary="guided backpropagation where Grad-CAM looks",
            passes="one backward pass of the whole model, one of the layers behind the chosen one",
            paper="https://arxiv.org/abs/1610.02391",
        ),
        Method(
            "ablationcam",
            ablation.ablationcam,
            needs="ablated_scores",
            summary="channels weighted by how much the score drops without them",
            passes=_TAIL_PASSES.format("channel"),
            paper="https://doi.org/10.1109/WACV45572.2020.9093360",
            weights=_by_scores(ablation.ablation_weights),
            sampling={"value": 0.0, "ratio": 1.0, "chunk": None},
        ),
        Method(
            "scorecam",
            masking.scorecam,
            needs="masked_scores",
            summary="channels weighted by the score of the image behind them as a mask",
            passes="a pass of the model for each of `channels`, all of them by default",
            paper="https://arxiv.org/abs/1910.01279",
            weights=_by_scores(masking.scorecam_weights),
            sampling={"channels": None, "align_corners": False, "chunk": None},
        ),
        Method(
            "sscam",
            masking.sscam,
            needs="masked_scores",
            summary="Score-CAM with noise on its masks",
            passes="a pass of the model for each of `samples` of each of `channels`",
            paper="https://arxiv.org/abs/2006.14255",
            weights=_by_scores(masking.sscam_weights),
            sampling={
                "samples": 35,
                "std": 2.0,
                "seed": 0,
                "channels": None,
                "align_corners": False,
                "chunk": None,
            },
        ),
        Method(
            "iscam",
            masking.iscam,
            needs="masked_scores",
            summary="Score-CAM with masks that grow step by step",
            passes="a pass of the model for each of `samples` of each of `channels`",
            paper="https://arxiv.org/abs/2010.03023",
            weights=_by_scores(masking.iscam_weights),
            sampling={"samples": 10, "channels": None, "align_corners": False, "chunk": None},
        ),
        Method(
            "reciprocam",
            masking.reciprocam,
            needs="point_scores",
            summary="each point's score by itself",
            passes=_TAIL_PASSES.format("point"),
            paper="https://arxiv.org/abs/2209.14074",
            relu=False,
            sampling={"gaussian": False, "chunk": None},
        ),
        Method(
            "vit-reciprocam",
            masking.reciprocam,
            needs="point_scores",
            summary="each token's score, with a little of its neighbours, beside the class token",
            passes=_TAIL_PASSES.format("token"),
            paper="https://arxiv.org/abs/2310.02588",
            relu=False,
            sampling={"gaussian": True, "chunk": None},
        ),
        Method(
            "rise",
            masking.rise_map,
            needs="random_mask_scores",
            summary="the mean of random masks, weighted by the score of what they show; no layer",
            passes="a pass of the model for each of `n_masks`",
            paper="https://arxiv.org/abs/1806.07421",
            relu=False,
            target="probability",
            sampling={"cells": 8, "seed": 0, "chunk": None},
        ),
        Method(
            "randomcam",
            weighting.randomcam,
            needs="activations",
            summary="channels weighted at random; the baseline to be beaten",
            passes=_NONE,
            paper="https://github.com/jacobgil/pytorch-grad-cam",
            class_specific=False,
            weights=weighting.randomcam_weights,
        ),
    )
}


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        UnknownNameError: no such method; the message lists the nearest names.

    >>> get_method("gradcam").needs
    'gradients'
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
