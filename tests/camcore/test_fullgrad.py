"""FullGrad's terms against the equation, and against the score they add up to."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

import camcore
from tests.backends import Backend
from tests.camcore import references

scales = pytest.mark.parametrize("scale", ["channel", "layer"])


def expected_term(contributions: np.ndarray, scale: str) -> np.ndarray:
    sizes = abs(contributions)
    if scale == "layer":
        return references.normalize(sizes).sum(axis=0)
    return sum(references.normalize(channel) for channel in sizes)


@scales
def test_terms_equal_the_equation(backend: Backend, scale: Literal["channel", "layer"]) -> None:
    rng = np.random.default_rng(0)
    x, G, b = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5)), rng.normal(size=3)
    arrays = [backend.array(values, "float64") for values in (x, G, b)]
    image = camcore.fullgrad_input(arrays[0], arrays[1], scale=scale)
    bias = camcore.fullgrad_bias(arrays[2], arrays[1], scale=scale)
    weighted = b[:, None, None] * G
    for n in range(2):
        backend.assert_close(image[n, ...], expected_term(x[n] * G[n], scale), "float64")
        backend.assert_close(bias[n, ...], expected_term(weighted[n], scale), "float64")


def test_channels_keep_their_proportions_only_within_a_layer(backend: Backend) -> None:
    G = np.zeros((2, 2, 2))
    G[0, 0, 0], G[1, 1, 1] = 1.0, 4.0
    ones = backend.array(np.ones(2), "float64")
    by_channel = backend.numpy(camcore.fullgrad_bias(ones, backend.array(G, "float64")))
    by_layer = backend.numpy(
        camcore.fullgrad_bias(ones, backend.array(G, "float64"), scale="layer")
    )
    np.testing.assert_allclose(by_channel, [[1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(by_layer, [[0.25, 0], [0, 1]], atol=1e-6)


def test_the_terms_before_scaling_add_up_to_the_score() -> None:
    """The reason why the biases are needed at all."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)]
    head = nn.Linear(5, 2, bias=False)
    image = torch.rand(1, 3, 6, 6, requires_grad=True)
    features, outputs = image, []
    for convolution in convolutions:
        outputs.append(convolution(features))
        features = outputs[-1].relu()
    score = head(features.mean(dim=(-2, -1)))[0, 1]
    dx, *gradients = torch.autograd.grad(score, [image, *outputs])
    whole = (image * dx).sum()
    for convolution, G in zip(convolutions, gradients, strict=True):
        assert convolution.bias is not None
        whole = whole + (convolution.bias[:, None, None] * G).sum()
    torch.testing.assert_close(whole, score)


def test_wrong_arrays_are_refused(backend: Backend) -> None:
    G, b = backend.array(np.ones((2, 3, 4, 5))), backend.array(np.ones(3))
    with pytest.raises(camcore.InputError, match=r"gradients .*\(2, 3, 4, 5\) and \(3,\)"):
        camcore.fullgrad_input(G, b)
    with pytest.raises(camcore.InputError, match=r"biases .*\(2, 3, 4, 5\) and \(2, 3, 4, 5\)"):
        camcore.fullgrad_bias(G, G)
    for scale in ("image", None):
        with pytest.raises(camcore.InputError, match="'channel' or 'layer'"):
            camcore.fullgrad_bias(b, G, scale=scale)  # type: ignore[arg-type]
