"""The independent reference: the user's own model, eagerly, with a hook and autograd.

Nothing of the traced graphs is used here: what the file is compared with must not share its
mistakes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from camcore.export.compose import Explanation, Request
from camcore.scaling import postprocess


def explain_eagerly(request: Request, image: Tensor, class_ids: Tensor) -> Explanation:
    """What the explained model ought to return for images (B, C, H, W) and class ids (B or 1, K).

    The batch is run once forwards and K times backwards through the user's model, which is left as
    it is.
    """
    with _recorded(request.model, request.layer) as recorded, torch.enable_grad():
        scores = request.model(image)
        activation = recorded[-1]
        ranked = scores.detach().argsort(dim=1, descending=True, stable=True)
        classes = torch.where(class_ids == -1, ranked[:, : class_ids.shape[1]], class_ids)
        maps = [_map(request, scores, activation, column) for column in classes.unbind(dim=1)]
    size = tuple(image.shape[2:]) if request.full_size else None
    saliency_map = postprocess(
        torch.stack(maps, dim=1),
        size,
        relu=request.relu,
        normalize=request.normalize,
        spatial_ndim=activation.ndim - 2,
    )
    return Explanation(scores.detach(), classes, saliency_map)


def _map(request: Request, scores: Tensor, activation: Tensor, classes: Tensor) -> Tensor:
    """The raw map (B, *S) of one class per image."""
    # Images do not influence each other, so the gradient of the sum holds each image's own.
    score = scores.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, activation, retain_graph=True)
    evidence = gradient
    if request.method.needs == "class_weights":
        # Behind global pooling the gradient is constant, the class's weight over the positions.
        evidence = gradient.flatten(2).sum(dim=2)
    raw_map: Tensor = request.method.kernel(
        activation.detach(), evidence, spatial_ndim=activation.ndim - 2, **request.options
    )
    return raw_map


@contextmanager
def _recorded(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """While it lasts, each call of the layer appends its output, a leaf the rest depends on."""
    outputs: list[Tensor] = []

    def hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        leaf = output.detach().clone().requires_grad_()
        outputs.append(leaf)
        # Not the leaf itself: what follows may work in place and change the recorded value.
        return leaf.clone()

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        yield outputs
    finally:
        handle.remove()
