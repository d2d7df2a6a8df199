"""Other libraries' maps in eager PyTorch, each made as its README says, for the best class."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

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


@dataclass(frozen=True)
class Question:
    """What all are asked: the map of the best class of an image, as an explained file gives it.

    `model` returns a tensor of scores, `layers` are modules of it, none where the method takes
    none.
    """

    model: nn.Module
    layers: tuple[nn.Module, ...]
    image: Tensor
    explained: Explained

    @classmethod
    def of(cls, explained: Explained, image: Tensor) -> "Question":
        model = explained.request.subject.user_model
        layer = dict(model.named_modules()).get(explained.card.layer)
        made = _returned_by_modules(model, image)
        layers: tuple[nn.Module, ...] = ()
        if layer is not None:
            # Itself, or where it returns a record, the module inside that made its tensor.
            (value, *_) = tree_leaves(made[layer])
            layers = (next(each for each in layer.modules() if made.get(each) is value),)
        if not isinstance(made[model], Tensor):
            # As the documentation of others says: a model of several outputs is wrapped.
            model = OneOutput(model, str(explained.card.explained))
        return cls(model, layers, image, explained)

    @torch.no_grad()
    def best_class(self) -> int:
        *_, ranking, _ = self.explained.request.subject(self.image)
        return int(ranking[0].argmax())


def _returned_by_modules(model: nn.Module, image: Tensor) -> dict[nn.Module, Any]:
    """What the model and each of its modules return for an image."""
    made: dict[nn.Module, Any] = {}
    hooks = [
        module.register_forward_hook(lambda module, _, output: made.update({module: output}))
        for module in model.modules()
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return made


class OneOutput(nn.Module):
    """A model that returns one of its outputs."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)[self.output]  # type: ignore[no-any-return]


def peers(method: str, explained: Explained, image: Tensor) -> Iterator[tuple[str, Peer]]:
    """Who else has the method, one after the other: hooks are gone when the next one comes.

    One that cannot be set up for the model raises what its library says when it is asked. TorchCAM
    and Captum explain classes, not pixels, and know activations with channels first only.
    """
    request = explained.request
    question = Question.of(explained, image)
    kinds = {layout.kind for layout in explained.found.layouts}
    usual = kinds == {"channels_first"} and request.subject.target.name != "segmentation"
    for library, name in NAMES[method].items():
        if usual or library == "pytorch-grad-cam":
            with ExitStack() as stack:
                peer: Peer
                try:
                    peer = stack.enter_context(_LIBRARIES[library](name, question))
                except Exception as error:
                    peer = partial(_raise, error)
                yield library, peer
            question.model.zero_grad()


def _raise(error: Exception) -> NoReturn:
    raise error


@contextmanager
def _pytorch_grad_cam(name: str, question: Question) -> Iterator[Peer]:
    import pytorch_grad_cam

    # It is told where rows and columns are, unless channels come first.
    transforms = [
        layout.channels_first
        for layout in question.explained.found.layouts
        if layout.kind != "channels_first"
    ]
    targets = _target(question)
    model, layers = question.model, list(question.layers)
    with getattr(pytorch_grad_cam, name)(model, layers, *transforms) as cam:
        yield lambda: cam(question.image, targets)
        # On leaving it would detach them in place, which views do not allow.
        seen = getattr(cam, "base_cam", cam).activations_and_grads
        seen.activations, seen.gradients = [], []


def _target(question: Question) -> list[Any] | None:
    """What is passed to pytorch-grad-cam by hand, as its documentation says."""
    from pytorch_grad_cam.utils import model_targets

    match question.explained.request.subject.target.name:
        case "rest":
            return [model_targets.ClassifierOutputReST(question.best_class())]
        case "segmentation":
            best = question.best_class()
            with torch.no_grad():
                inside = question.model(question.image)[0].argmax(dim=0) == best
            mask = inside.float().numpy()
            return [model_targets.SemanticSegmentationTarget(best, mask)]
        case _:
            return None


@contextmanager
def _torchcam(name: str, question: Question) -> Iterator[Peer]:
    from torchcam import methods

    with getattr(methods, name)(question.model, *question.layers) as extractor:

        def run() -> NDArray[Any]:
            scores = question.model(question.image)
            (found,) = extractor(int(scores[0].argmax()), scores)
            array: NDArray[Any] = found.detach().numpy()
            return array

        yield run


@contextmanager
def _captum(name: str, question: Question) -> Iterator[Peer]:
    from captum import attr

    image = question.image
    attribution = getattr(attr, name)(question.model, *question.layers)

    def run() -> NDArray[Any]:
        with torch.no_grad():
            best = int(question.model(image)[0].argmax())
        found = attribution.attribute(image, target=best, relu_attributions=True).detach()
        found = attr.LayerAttribution.interpolate(found, tuple(image.shape[2:]), "bilinear")
        array: NDArray[Any] = ((found - found.min()) / (found.max() - found.min())).numpy()
        return array

    yield run


_LIBRARIES = {"pytorch-grad-cam": _pytorch_grad_cam, "TorchCAM": _torchcam, "Captum": _captum}
