"""FullGrad: what the image and every bias contribute."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from camcore.errors import InputError
from camcore.export import explain
from tests.export.models import EXAMPLE, images

pytestmark = pytest.mark.usefixtures("shared_traces")


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
