"""Step 3, compose: head, tail and a kernel become one module that explains itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

import camcore
from camcore.card import Card, ImageSpec
from camcore.errors import ExportError, InputError, unknown_name
from camcore.export.classifier import pooled_linear_weight
from camcore.export.cut import Cut, cut
from camcore.export.gradient import Gradient, trace_gradient
from camcore.export.layers import check_layer_name, default_layer, find_activation
from camcore.export.trace import outputs_of, trace
from camcore.methods import Method, get_method
from camcore.scaling import postprocess
from camcore.targets import select_classes


class Explanation(NamedTuple):
    """What an explained model returns: the prediction first, then its maps.

    Shapes: scores (B, N), classes (B, K) int64, saliency_map (B, K, H, W) in [0, 1].
    """

    scores: Tensor
    classes: Tensor
    saliency_map: Tensor


@dataclass(frozen=True)
class Request:
    """What was asked for: the proof asks eager PyTorch for the same."""

    model: nn.Module
    example: Tensor
    method: Method
    layer: str
    options: dict[str, Any] = field(default_factory=dict)
    relu: bool = True
    normalize: bool = True
    full_size: bool = True


class Explained(nn.Module):
    """A model that returns its prediction and the maps of the classes asked for.

    Called with images (B, C, H, W) and optional class ids (B or 1, K), int64, where -1 in column k
    stands for the class with the k-th highest score; without ids it explains the best class. It is
    an ordinary module, which runs eagerly on the model's device and shares its weights;
    `camcore.export.save` writes it to a file.

    `body` does the work, on plain tuples; `card` describes the result, `request` what was asked
    for.
    """

    def __init__(self, body: "_Body", request: Request, card: Card) -> None:
        super().__init__()
        self.body = body
        self.card = card
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)

    @property
    def request(self) -> Request:
        return self._request[0]

    def forward(self, image: Tensor, class_ids: Tensor | None = None) -> Explanation:
        if class_ids is None:
            class_ids = torch.full((1, 1), -1, dtype=torch.int64, device=image.device)
        return Explanation(*self.body(image, class_ids))


class _Body(nn.Module):
    """From images and class ids to `(scores, classes, saliency_map)`."""

    def __init__(self, parts: Cut, request: Request) -> None:
        super().__init__()
        self.head = parts.head
        self._kernel = partial(request.method.kernel, **request.options)
        self._request = (request,)

    def raw_maps(self, image: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, N), classes (B, K) and raw maps (B, K, *S)."""
        raise NotImplementedError

    def forward(self, image: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (request,) = self._request
        scores, classes, maps = self.raw_maps(image, class_ids)
        size = tuple(image.shape[2:]) if request.full_size else None
        maps = postprocess(
            maps, size, relu=request.relu, normalize=request.normalize, spatial_ndim=maps.ndim - 2
        )
        return scores, classes, maps


class _GradientBody(_Body):
    """Raw maps from activations and gradients: one head pass, one tail pass, K passes back."""

    def __init__(self, parts: Cut, request: Request, gradient: Gradient) -> None:
        super().__init__(parts, request)
        self.tail = gradient.forward
        self.backward_pass = gradient.backward
        self._repeat_saved = gradient.repeat_saved

    def raw_maps(self, image: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        activations, *crossing = self.head(image)
        scores, *saved = self.tail(activations, *crossing)
        classes = select_classes(scores, class_ids)
        batch, k = classes.shape
        (gradients,) = self.backward_pass(classes.t().reshape(-1), *self._repeat_saved(saved, k))
        gradients = gradients.reshape(k, batch, *activations.shape[1:])
        maps = self._kernel(activations, gradients, spatial_ndim=activations.ndim - 2)
        return scores, classes, maps.transpose(0, 1)


class _ClassWeightBody(_Body):
    """Raw maps from activations and the classifier's weights: no pass but the prediction's."""

    def __init__(self, parts: Cut, request: Request, weight: Tensor) -> None:
        super().__init__(parts, request)
        self.tail = parts.tail
        self.weight = nn.Buffer(weight)

    def raw_maps(self, image: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        activations, *crossing = self.head(image)
        (scores,) = self.tail(activations, *crossing)
        classes = select_classes(scores, class_ids)
        weights = self.weight.index_select(0, classes.reshape(-1)).reshape(*classes.shape, -1)
        maps = self._kernel(activations.unsqueeze(1), weights, spatial_ndim=activations.ndim - 2)
        return scores, classes, maps


def explain(
    model: nn.Module,
    example: Tensor,
    *,
    method: str = "gradcam",
    layer: str | None = None,
    relu: bool | None = None,
    normalize: bool = True,
    full_size: bool = True,
    dynamic_size: bool | None = None,
    model_name: str = "",
    class_names: Sequence[str] | None = None,
    image_spec: ImageSpec | None = None,
    **options: Any,
) -> Explained:
    """Turn a classifier into a module that returns its prediction and class activation maps.

    Args:
        model: takes images (B, C, H, W), returns scores (B, N); in eval mode; left as it is.
        example: images of a shape that the model accepts; only the shape matters.
        method: a name of `camcore.methods.METHODS`.
        layer: the name of the module to explain, as in `model.named_modules()`; None takes the last
            one whose output lies on the image's grid.
        relu, normalize: post-processing; relu None takes the method's default.
        full_size: maps at image size, otherwise at the layer's own.
        dynamic_size: True demands free height and width, False fixes the example's, None frees
            them where the model allows it. The batch is always free.
        model_name, class_names, image_spec: written on the file's card for whoever runs it.
        options: the method's own, such as `eps`.

    Raises:
        InputError: the model is in training mode or has NaN in its weights, or an argument does
            not fit.
        UnknownNameError: no such method or layer; the message offers the nearest.
        ExportError: the model, the layer or an operator behind the layer cannot be exported.

    >>> import torchvision
    >>> model = torchvision.models.resnet18().eval()
    >>> explained = explain(model, torch.zeros(1, 3, 64, 64), method="gradcam", layer="layer4")
    >>> explained(torch.rand(2, 3, 96, 64)).saliency_map.shape
    torch.Size([2, 1, 96, 64])
    """
    chosen = get_method(method)
    for name in options:
        if name not in chosen.options:
            raise unknown_name(f"option of {method}", name, chosen.options)
    if layer is not None:
        check_layer_name(model, layer)
    traced = trace(model, example, dynamic_size=dynamic_size)
    layer = layer or default_layer(traced)
    activation = find_activation(traced, layer)
    num_classes = _check_scores(traced.graph, class_names)
    request = Request(
        model=model,
        example=example,
        method=chosen,
        layer=layer,
        options=chosen.options | options,
        relu=chosen.relu if relu is None else relu,
        normalize=normalize,
        full_size=full_size,
    )
    height, width = (None, None) if traced.dynamic_size else tuple(example.shape[-2:])
    card = Card(
        method=method,
        layer=layer,
        image=replace(
            image_spec or ImageSpec(None, None),
            height=height,
            width=width,
            channels=example.shape[1],
        ),
        num_classes=num_classes,
        outputs=Explanation._fields,
        model=model_name or type(model).__name__,
        class_names=tuple(class_names) if class_names is not None else None,
        map_size="image" if full_size else "feature",
        options=request.options | {"relu": request.relu, "normalize": normalize},
        notes=traced.notes,
        versions={"camcore": camcore.__version__, "torch": str(torch.__version__)},
    )
    parts = cut(traced.graph, at=activation, kept=[activation])
    body: _Body
    if chosen.needs == "gradients":
        gradient = trace_gradient(parts.tail, activation.meta["val"], parts.crossing)
        body = _GradientBody(parts, request, gradient)
    else:
        body = _ClassWeightBody(parts, request, pooled_linear_weight(parts.tail, layer))
    return Explained(body, request, card).eval()


def _check_scores(graph: fx.GraphModule, class_names: Sequence[str] | None) -> int:
    outputs = [output.meta["val"] for output in outputs_of(graph)]
    ranks = [output.ndim for output in outputs]
    if ranks != [2]:
        raise ExportError(
            f"the model returns {len(ranks)} tensors, of rank {ranks}, expected one of rank 2, "
            "class scores (B, N). Wrap the model in a module that returns its scores"
        )
    num_classes = int(outputs[0].shape[1])
    if class_names is not None and len(class_names) != num_classes:
        raise InputError(
            f"{len(class_names)} class names were given for a model of {num_classes} classes"
        )
    return num_classes
