"""Smooth Grad-CAM++: gradients at noisy images."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from camcore.export import explain
from camcore.noise import normal_noise
from tests.camcore import references
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, images
from tests.export.oracle import run_one

pytestmark = pytest.mark.usefixtures("shared_traces")


@pytest.mark.parametrize("samples", [1, 3])
def test_smoothgradcam_averages_over_noisy_images(small_net: nn.Module, samples: int) -> None:
    """Against gradients of one image and one class at a time, and the paper's equation."""
    options = {"samples": samples, "std": 0.5, "seed": 3}
    explained = explain(small_net, EXAMPLE, method="smoothgradcam++", layer=LAYER, **options)
    image, ids = images(1, 2, 17, 40), torch.tensor([[4, 1]])
    given = explained(image, ids)
    noise = 0.5 * normal_noise(image, (samples, 3, 17, 40), seed=3)
    twin = deepcopy(small_net).double()
    for b, k in np.ndindex(2, 2):
        _, activation, _ = run_one(twin, LAYER, image[b : b + 1].double())
        gradients = []
        for each in noise:
            scores, _, delta = run_one(twin, LAYER, (image[b] + each)[None].double())
            (gradient,) = torch.autograd.grad(scores[0, ids[0, k]], delta)
            gradients.append(gradient[0].numpy().reshape(8, -1))
        a = activation.reshape(8, -1)
        weights = references.smoothgradcam_plus_plus_weights(a, np.stack(gradients))
        raw = references.weighted_sum(a, weights).reshape(activation.shape[1:])
        expected = references.postprocess(raw, (17, 40))
        np.testing.assert_allclose(given.saliency_map[b, k], expected, atol=1e-4)
    plain = explain(small_net, EXAMPLE, method="gradcam++", layer=LAYER)(image, ids)
    assert (given.saliency_map - plain.saliency_map).abs().max() > 0.01
