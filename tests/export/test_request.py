"""What was asked for makes kernels: smoothed by the first principal component, or not."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import camcore
from camcore.errors import InputError
from camcore.export import explain
from tests.camcore import references
from tests.export.models import EXAMPLE, build, images
from tests.export.oracle import TOLERANCE, maps_by_hand, worst_error
from tests.export.smoothing import IDS, LAYER, PEERS, features, logit, maps_of_peer

pytestmark = pytest.mark.usefixtures("shared_traces")


def first_component_of(weights: Any) -> Any:
    """Of the weighted activations, (C, P) -> (P,)."""
    return lambda a, g: references.first_component(weights(a, g)[:, None] * a)


EIGEN = {
    "gradcam": first_component_of(references.gradcam_weights),
    "gradcam++": first_component_of(references.gradcam_plus_plus_weights),
    "xgradcam": first_component_of(references.xgradcam_weights),
    "hirescam": lambda a, g: references.first_component(g * a),
    "layercam": lambda a, g: references.first_component(np.maximum(g, 0) * a),
    "fem": lambda a, g: references.first_component(references.fem_weights(a)[:, None] * a),
}
SMOOTHED = {name for name, method in camcore.METHODS.items() if method.weights is not None}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build(features)


@pytest.mark.parametrize("method", EIGEN)
def test_eigen_smooth(model: nn.Module, method: str) -> None:
    image = images(2, 3, 28, 20)
    explained = explain(model, EXAMPLE, method=method, layer=LAYER, eigen_smooth=True)
    given = explained(image, torch.tensor(IDS))
    expected = maps_by_hand(model, [LAYER], [image], IDS, logit, weighted=EIGEN[method])
    assert torch.equal(given.scores, model(image))
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    plain = explain(model, EXAMPLE, method=method, layer=LAYER)(image, torch.tensor(IDS))
    assert (given.saliency_map - plain.saliency_map).abs().max() > 0.05
    assert explained.card.options["eigen_smooth"] is True


@pytest.mark.parametrize("method", sorted(set(camcore.METHODS) - SMOOTHED))
def test_what_is_no_weighted_sum_is_not_smoothed(model: nn.Module, method: str) -> None:
    with pytest.raises(InputError, match=rf"eigen_smooth .*which {re.escape(method)} is not"):
        explain(model, EXAMPLE, method=method, eigen_smooth=True)


@pytest.mark.parametrize("method", PEERS)
def test_eigen_smooth_as_pytorch_grad_cam(model: nn.Module, method: str, peer: Any) -> None:
    """Its component has the sign that LAPACK left, so either map of the two is right."""
    image, ids = images(2, 3, 28, 20), torch.tensor(IDS)[:, :1]
    options: dict[str, Any] = {"method": method, "layer": LAYER, "eigen_smooth": True}
    given = explain(model, EXAMPLE, **options)(image, ids).saliency_map[:, 0].numpy()
    raw = explain(model, EXAMPLE, relu=False, normalize=False, full_size=False, **options)
    turned = -raw(image, ids).saliency_map[:, 0].double().numpy()
    expected = maps_of_peer(peer, model, method, image, eigen_smooth=True)
    for n in range(len(image)):
        either = [given[n], references.postprocess(turned[n], (28, 20))]
        errors = [np.abs(each - expected[n]).max() for each in either]
        assert min(errors) < 1e-4
        assert max(errors) > 0.05
