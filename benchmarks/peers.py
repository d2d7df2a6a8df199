"""Other libraries' maps in eager PyTorch, each made as its README says, for the best class."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.subjects import make_image
from camcore.export import Explained

# Returns the map, (H, W) behind axes of one.
Peer = Callable[[], NDArray[Any]]

# The name of a method in each library that has it.
NAMES: dict[str, dict[str, str]] = {
    "cam": {"TorchCAM": "CAM"},
    "gradcam": {
        "pytorch-grad-cam": "GradCAM",
        "TorchCAM": "GradCAM",
        "Captum": "LayerGradCam",
    },
    "gradcam++": {"pytorch-grad-cam": "GradCAMPlusPlus", "TorchCAM": "GradCAMpp"},
    "xgradcam": {"pytorch-grad-cam": "XGradCAM", "TorchCAM": "XGradCAM"},
    "layercam": {"pytorch-grad-cam": "LayerCAM", "TorchCAM": "LayerCAM"},
    "hirescam": {"pytorch-grad-cam": "HiResCAM"},
    "gradcam-elementwise": {"pytorch-grad-cam": "GradCAMElementWise"},
    "finercam": {"pytorch-grad-cam": "FinerCAM", "TorchCAM": "FinerCAM"},
    "shapleycam": {"pytorch-grad-cam": "ShapleyCAM"},
    "eigencam": {"pytorch-grad-cam": "EigenCAM"},
    "eigengradcam": {"pytorch-grad-cam": "EigenGradCAM"},
    "segeigencam": {"pytorch-grad-cam": "SegEigenCAM"},
    "kpcacam": {"pytorch-grad-cam": "KPCA_CAM"},
    "fem": {"pytorch-grad-cam": "FEM"},
    "fullgrad": {"pytorch-grad-cam": "FullGrad"},
}


def peers(method: str, model: nn.Module, explained: Explained) -> Iterator[tuple[str, Peer]]:
    """Who else has the method, one after the other: hooks are gone when the next one comes.

    TorchCAM and Captum know activations with channels first only.
    """
    kinds = {layout.kind for layout in explained.request.layouts}
    for library, name in NAMES[method].items():
        if library == "pytorch-grad-cam" or kinds == {"channels_first"}:
            with _LIBRARIES[library](name, model, explained) as peer:
                yield library, peer
            model.zero_grad()


@contextmanager
def _pytorch_grad_cam(name: str, model: nn.Module, explained: Explained) -> Iterator[Peer]:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST

    # It is told where rows and columns are, unless channels come first.
    transforms = [
        layout.channels_first
        for layout in explained.request.layouts
        if layout.kind != "channels_first"
    ]
    image = make_image()
    targets = None
    if explained.request.subject.target.name == "rest":
        # ShapleyCAM's, which its README passes by hand.
        targets = [ClassifierOutputReST(_best_class(model, image))]
    with getattr(pytorch_grad_cam, name)(model, _layers(model, explained), *transforms) as cam:
        yield lambda: cam(image, targets)


@contextmanager
def _torchcam(name: str, model: nn.Module, explained: Explained) -> Iterator[Peer]:
    from torchcam import methods

    image = make_image()
    with getattr(methods, name)(model, explained.card.layer) as extractor:

        def run() -> NDArray[Any]:
            scores = model(image)
            (found,) = extractor(int(scores[0].argmax()), scores)
            array: NDArray[Any] = found.detach().numpy()
            return array

        yield run


@contextmanager
def _captum(name: str, model: nn.Module, explained: Explained) -> Iterator[Peer]:
    from captum import attr

    image = make_image()
    attribution = getattr(attr, name)(model, *_layers(model, explained))

    def run() -> NDArray[Any]:
        best = _best_class(model, image)
        found = attribution.attribute(image, target=best, relu_attributions=True).detach()
        found = attr.LayerAttribution.interpolate(found, tuple(image.shape[2:]), "bilinear")
        array: NDArray[Any] = ((found - found.min()) / (found.max() - found.min())).numpy()
        return array

    yield run


@torch.no_grad()
def _best_class(model: nn.Module, image: Tensor) -> int:
    return int(model(image)[0].argmax())


def _layers(model: nn.Module, explained: Explained) -> list[nn.Module]:
    """None where the method takes no layer."""
    layer = dict(model.named_modules()).get(explained.card.layer)
    return [] if layer is None else [layer]


_LIBRARIES = {"pytorch-grad-cam": _pytorch_grad_cam, "TorchCAM": _torchcam, "Captum": _captum}
