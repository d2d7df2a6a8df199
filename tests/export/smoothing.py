"""A model whose maps are smoothed, and the peer's maps of it."""

from typing import Any

from torch import Tensor, nn

from tests.export.models import Classifier

IDS = [[4, 0], [2, 4], [1, 3]]
LAYER = "features.1"


def logit(z: Tensor, c: int) -> Tensor:
    return z[0, c]


def features() -> nn.Module:
    return Classifier(
        nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.GELU()), 8
    )


PEERS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
}


def maps_of_peer(peer: Any, model: nn.Module, method: str, image: Tensor, **how: bool) -> Any:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(row[0]) for row in IDS]
    with getattr(peer, PEERS[method])(model, [model.get_submodule(LAYER)]) as cam:
        maps = cam(image, targets, **how)
    assert maps.max() > 0.7
    return maps
