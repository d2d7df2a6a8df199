"""Methods of gradients at layers, Grad-CAM and its relatives, against a transcription in NumPy."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import camcore
from camcore.export import explain
from tests.camcore import references
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, Classifier, build, images
from tests.export.oracle import assert_method_is_exact, assert_same, exact, explain_by_hand, in_turn

pytestmark = pytest.mark.usefixtures("shared_traces")


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


# Of another target, and of several layers at once.
BEYOND = {"finercam", "refinecam"}
METHODS = [m.name for m in camcore.METHODS.values() if m.needs == "gradients"]


@pytest.mark.parametrize(
    ("method", "layer"), in_turn(sorted(set(METHODS) - BEYOND), ["top", LAYER])
)
def test_every_method(method: str, layer: str, small_net: nn.Module) -> None:
    assert_method_is_exact(small_net, method, layer)


def test_an_option_of_the_method(small_net: nn.Module) -> None:
    image = images(1, 2, 24, 24)
    maps = []
    for eps in (0.5, 1e-6):
        explained = explain(small_net, EXAMPLE, method="gradcam++", layer="top", eps=eps)
        assert explained.card.options["eps"] == eps
        given = explained(image)
        assert_same(given, exact(small_net, "top", image, [[-1]], method="gradcam++", eps=eps))
        maps.append(given.saliency_map)
    assert (maps[0] - maps[1]).abs().max() > 1e-3


def test_raw_maps(small_net: nn.Module) -> None:
    """Without rectification and scaling: the equation's own numbers."""
    explained = explain(
        small_net, EXAMPLE, layer="top", relu=False, normalize=False, full_size=False
    )
    image = images(1, 1, 24, 24)
    seen: list[Tensor] = []
    handle = small_net.get_submodule("top").register_forward_hook(
        lambda m, i, o: seen.append(o.detach())
    )
    best = int(small_net(image).argmax())
    handle.remove()
    activation = seen[0][0].double()
    # Behind average pooling and a linear layer, a mean gradient is weight / number of points.
    weights = small_net.get_parameter("fc.weight")[best].detach().double() / activation[0].numel()
    expected = references.weighted_sum(activation.flatten(1).numpy(), weights.numpy())
    given = explained(image).saliency_map.double().flatten().numpy()
    assert given.min() < 0
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-6)


def test_volumes() -> None:
    model = build(
        lambda: Classifier(
            nn.Sequential(nn.Conv3d(2, 6, 3), nn.ReLU(), nn.Conv3d(6, 4, 2), nn.Tanh()), 4
        ),
        shape=(2, 7, 8, 9),
    )
    explained = explain(model, torch.zeros(1, 2, 7, 8, 9), layer="features.1")
    image, ids = images(1, 2, 9, 7, 8, channels=2), torch.tensor([[-1, 2]])
    given = explained(image, ids)
    assert given.saliency_map.shape == (2, 2, 9, 7, 8)
    assert_same(given, exact(model, "features.1", image, ids))
