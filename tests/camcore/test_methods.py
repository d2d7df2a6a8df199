"""The registry."""

import inspect
import re

import numpy as np
import pytest

import camcore


def test_the_methods_by_name() -> None:
    assert list(camcore.METHODS) == [
        "cam",
        "activation",
        "gradcam",
        "gradcam++",
        "smoothgradcam++",
        "xgradcam",
        "hirescam",
        "gradcam-elementwise",
        "layercam",
        "eigencam",
        "eigengradcam",
        "segeigencam",
        "kpcacam",
        "fem",
        "shapleycam",
        "finercam",
        "refinecam",
        "fullgrad",
        "legrad",
        "guided-backprop",
        "guided-gradcam",
        "ablationcam",
        "scorecam",
        "sscam",
        "iscam",
        "reciprocam",
        "vit-reciprocam",
        "rise",
        "randomcam",
    ]
    assert all(name == method.name for name, method in camcore.METHODS.items())


ARRAYS = {
    "activations": ["activations"],
    "gradients": ["activations", "gradients"],
    "class_weights": ["activations", "class_weights"],
    "noisy_gradients": ["activations", "gradients"],
    "bias_gradients": ["biases", "gradients"],
    "guided_gradients": ["guided_gradients"],
    "gradients_and_guided_gradients": ["activations", "gradients", "guided_gradients"],
    "gradients_and_hessian_products": ["activations", "gradients", "hessian_products"],
    "attention_gradients": ["gradients", "grid"],
    "ablated_scores": ["activations", "score", "ablated"],
    "masked_scores": ["activations", "scores"],
    "point_scores": ["scores", "shape"],
    "random_mask_scores": ["sums"],
}


@pytest.mark.parametrize("method", camcore.METHODS.values(), ids=lambda method: method.name)
def test_a_row_fits_its_kernel(method: camcore.Method) -> None:
    parameters = inspect.signature(method.kernel).parameters
    arrays = [
        name
        for name, parameter in parameters.items()
        if parameter.kind is parameter.POSITIONAL_ONLY
    ]
    assert arrays == ARRAYS[method.needs]
    own = [name for name in method.options if name not in method.sampling]
    of_the_layer = {
        "attention_gradients": ["prefix_tokens"],
        "point_scores": [],
        "random_mask_scores": [],
    }.get(method.needs, ["spatial_ndim"])
    assert list(parameters)[len(arrays) :] == [*of_the_layer, *own]
    assert re.fullmatch(r"https://\S+", method.paper)
    assert method.summary
    assert method.passes
    # Grad-CAM of another target, or of several layers, is no kernel of its own.
    if method.target != "finer" and method.combine != "product":
        assert method.paper in method.kernel.__doc__


def test_weights_fit_their_kernel() -> None:
    """The same arrays and options, and their sum over channels is the kernel's map."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(2, 3, 4, 5))
    G, HA = rng.normal(size=(2, *A.shape))
    scores = rng.normal(size=(4, 2, 3))
    given = {
        "activations": (A,),
        "gradients": (A, G),
        "class_weights": (A, rng.normal(size=(2, 3))),
        "gradients_and_hessian_products": (A, G, HA),
        "ablated_scores": (A, scores[0, :, 0], scores[1]),
        "masked_scores": (A, scores[0]),
    }
    for method in camcore.METHODS.values():
        if method.weights is None:
            assert (
                method.kernel.__module__
                in {"camcore.projection", "camcore.fullgrad", "camcore.guided", "camcore.attention"}
                or method.sampling
            )
            continue
        if method.needs not in ("ablated_scores", "masked_scores"):
            assert inspect.signature(method.weights) == inspect.signature(method.kernel)
        arrays = (A, scores) if "samples" in method.sampling else given[method.needs]
        own = {name: value for name, value in method.options.items() if name not in method.sampling}
        weights = method.weights(*arrays, spatial_ndim=2, **own)
        weighted = A * (weights if method.per_point else weights[..., None, None])
        np.testing.assert_allclose(weighted.sum(axis=1), method.kernel(*arrays), rtol=1e-12)


def test_options_are_the_kernels_own() -> None:
    assert camcore.get_method("gradcam").options == {}
    assert camcore.get_method("gradcam++").options == {"eps": 1e-6}
    assert camcore.get_method("xgradcam").options == {"eps": 1e-7}
    assert camcore.get_method("eigencam").options == {"gram": None}
    assert camcore.get_method("kpcacam").options == {"gamma": None, "coef": 1.0}
    assert camcore.get_method("fem").options == {"k": 2.0}
    assert camcore.get_method("legrad").options == {"queries": "all"}
    assert camcore.get_method("randomcam").options == {"seed": 0}
    assert camcore.get_method("rise").options == {
        "n_masks": 4000,
        "probability": 0.5,
        "cells": 8,
        "seed": 0,
        "chunk": None,
    }


def test_methods_without_a_class_need_activations_alone() -> None:
    for method in camcore.METHODS.values():
        assert method.class_specific == (method.needs != "activations")


def test_who_keeps_negative_values() -> None:
    """FullGrad has none, nor has RISE of probabilities; Recipro-CAM compares scores of any sign."""
    kept = [name for name, method in camcore.METHODS.items() if not method.relu]
    assert kept == ["cam", "fullgrad", "reciprocam", "vit-reciprocam", "rise"]


def test_an_unknown_method_lists_the_nearest() -> None:
    with pytest.raises(
        camcore.UnknownNameError, match="unknown method 'gradcan'; nearest: gradcam"
    ):
        camcore.get_method("gradcan")
