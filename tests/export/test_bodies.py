"""Methods that are more than a kernel on gradients, and options that do not go together."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from camcore.errors import InputError
from camcore.export import explain
from camcore.noise import normal_noise
from tests.camcore import references
from tests.export.conftest import LAYER
from tests.export.models import images
from tests.export.oracle import explain_by_hand, run_one

EXAMPLE = torch.zeros(1, 3, 24, 24)


def test_finercam_is_gradcam_of_a_contrast(small_net: nn.Module) -> None:
    image, ids = images(1, 3, 24, 24), torch.tensor([[-1, 2]])
    finer = explain(small_net, EXAMPLE, method="finercam", layer=LAYER)(image, ids)
    contrast = explain(small_net, EXAMPLE, method="gradcam", layer=LAYER, target="finer")
    torch.testing.assert_close(finer, contrast(image, ids))
    plain = explain(small_net, EXAMPLE, method="gradcam", layer=LAYER)(image, ids)
    assert (finer.saliency_map - plain.saliency_map).abs().max() > 0.1


def test_refinecam_is_the_product_of_its_layers(small_net: nn.Module) -> None:
    image, ids = images(1, 3, 24, 24), torch.tensor([[-1, 2]])
    given = explain(small_net, EXAMPLE, method="refinecam", layer=[LAYER, "top"])(image, ids)
    product = np.ones((3, 2, 24, 24))
    for layer in (LAYER, "top"):
        product *= explain_by_hand(
            deepcopy(small_net).double(), layer, image.double(), ids, method="gradcam++"
        ).saliency_map
    low, high = product.min((2, 3), keepdims=True), product.max((2, 3), keepdims=True)
    np.testing.assert_allclose(given.saliency_map, (product - low) / (high - low), atol=1e-4)


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


def test_fullgrad_is_that_of_pytorch_grad_cam(small_net: nn.Module) -> None:
    peer = pytest.importorskip("pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    explained = explain(small_net, EXAMPLE, method="fullgrad")
    image, ids = images(1, 2, 32, 32), torch.tensor([[4, 1], [0, 2]])
    given = explained(image, ids).saliency_map.numpy()
    twin = deepcopy(small_net)
    for k in range(2):
        with peer.FullGrad(twin, []) as fullgrad:
            chosen = [targets.ClassifierOutputTarget(int(c)) for c in ids[:, k]]
            expected = fullgrad(input_tensor=image.clone(), targets=chosen)
        np.testing.assert_allclose(given[:, k], expected, atol=1e-4)
    assert np.abs(given[0] - given[1]).max() > 0.1


def test_fullgrad_takes_no_layer(small_net: nn.Module) -> None:
    card = explain(small_net, EXAMPLE, method="fullgrad").card
    assert card.layer == "every bias"
    with pytest.raises(InputError, match="leave out layer"):
        explain(small_net, EXAMPLE, method="fullgrad", layer="top")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "feature size of several layers": ({"layer": [LAYER, "top"], "full_size": False}, "full_size"),
    "a way to combine that there is not": ({"combine": "meen"}, "one of .*mean.*got 'meen'"),
    "cam of several layers": ({"layer": [LAYER, "top"], "method": "cam"}, "the one layer before"),
    "components of components": ({"method": "eigencam", "eigen_smooth": True}, "eigen_smooth"),
    "noise and variants": ({"method": "smoothgradcam++", "aug_smooth": True}, "adds noise"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_do_not_go_together(name: str, small_net: nn.Module) -> None:
    options, match = REFUSED[name]
    with pytest.raises(InputError, match=match):
        explain(small_net, EXAMPLE, **options)
