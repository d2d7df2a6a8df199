"""Against the imputer of ROAD's authors, as pytorch-grad-cam has it."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from camcore.adapters.evaluation.imputation import impute

# What the peer does to tensors NumPy warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_as_the_peer_imputes(share: float) -> None:
    rng = np.random.default_rng(int(share * 100))
    image = rng.normal(size=(3, 17, 14)).astype(np.float32)
    kept = rng.random((17, 14)) >= share
    peer = NoisyLinearImputer(noise=0)
    expected = peer(torch.from_numpy(image), torch.from_numpy(kept.astype(np.float32)))
    found = impute(image, kept)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found[:, kept], image[:, kept])
    assert found.dtype == np.float32


def test_what_nothing_is_known_of() -> None:
    image = np.ones((2, 3, 3), np.float32)
    assert not impute(image, np.zeros((3, 3), bool)).any()
    assert impute(image, np.ones((3, 3), bool)) is image


def test_a_plane_is_put_back_inside() -> None:
    """Each pixel is the mean of those around it, and a plane is that already."""
    y, x = np.mgrid[:9, :9].astype(np.float32)
    kept = np.ones((9, 9), bool)
    kept[2:7, 3:6] = False
    np.testing.assert_allclose(impute((2 * y - x)[None], kept)[0], 2 * y - x, atol=1e-5)
