"""The independent reference: the user's own model, eagerly, with a hook and autograd.

Nothing of the traced graphs is used here: what the file is compared with must not share its
mistakes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from camcore.errors import ExportError
from camcore.export.bodies import GUIDED, Request
from camcore.export.passes.body import PASSES
from camcore.export.prove.passes import pass_maps
from camcore.export.prove.watch import AttentionWatch, SoundBatchNorms, twice_differentiable
from camcore.export.trace.trace import first_line


class Reference(NamedTuple):
    """What a file ought to return: the model's own outputs, classes (B, K) and maps.

    `ranking` (B, N) is what the best classes are told by.
    """

    outputs: tuple[Tensor, ...]
    classes: Tensor
    saliency_map: Tensor
    ranking: Tensor


def explain_eagerly(request: Request, inputs: Sequence[Tensor], class_ids: Tensor) -> Reference:
    """What the explained model ought to return for the model's inputs and class ids (B or 1, K).

    The batch is run once forwards and K times backwards through the user's model, which is left as
    it is.
    """
    plain = _Run(request, inputs)
    ranked = plain.ranking.argsort(dim=1, descending=True, stable=True)
    classes = torch.where(class_ids == -1, ranked[:, : class_ids.shape[1]], class_ids)
    if request.aug_smooth:
        saliency_map = _smoothed(request, inputs, classes)
    else:
        saliency_map = _maps(request, plain, inputs, classes)
    return Reference(plain.outputs, classes, saliency_map, plain.ranking)


def _smoothed(request: Request, inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
    """The mean of the maps of six variants, one after the other."""
    image, *others = inputs
    variants = []
    for factor in (0.9, 1.0, 1.1):
        for mirrored in (False, True):
            varied = (image.flip(-1) if mirrored else image) * factor
            maps = _maps(request, _Run(request, (varied, *others)), inputs, classes)
            variants.append(maps.flip(-1) if mirrored else maps)
    return torch.stack(variants).mean(dim=0)


def _maps(request: Request, run: "_Run", inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
    """The maps (B, K, *S) of classes (B, K)."""
    if request.method.needs in PASSES:
        return request.finish(pass_maps(request, run.inputs, classes), inputs[0])
    runs = [run]
    if request.method.needs == "noisy_gradients":
        runs += [_Run(request, noisy) for noisy in request.noisy(inputs)]
    explain = _raw_maps
    if request.method.needs in GUIDED:
        explain = _guided_maps
        with _GuidedReLUs():
            runs.append(_Run(request, run.inputs))
    columns = [explain(request, runs, ids[:, None]) for ids in classes.unbind(dim=1)]
    by_layer = [torch.stack(maps, dim=1) for maps in zip(*columns, strict=True)]
    return request.finish(by_layer, inputs[0])


class _Run:
    """One pass of the user's model, with what its layers returned."""

    def __init__(self, request: Request, inputs: Sequence[Tensor]) -> None:
        model = request.subject.user_model
        self.inputs = inputs
        image, *others = inputs
        # The image has no name among the layers, and no module whose output it is.
        delta = torch.zeros_like(image, requires_grad=True)
        if request.method.needs == "attention_gradients":
            tokens = [layout.prefix + math.prod(layout.grid) for layout in request.layouts]
            with AttentionWatch(model, request.layers, tokens) as watch:
                *outputs, ranking, self.scores = _observe(request, image + delta, others)
            self.layers = [_Recorded(each.detach(), each) for each in watch.deltas()]
        else:
            layers = [layer for layer in request.layers if layer]
            twice = request.method.needs == "gradients_and_hessian_products"
            forms = twice_differentiable() if twice else nullcontext()
            with _recorded(model, layers) as recorded, forms:
                *outputs, ranking, self.scores = _observe(request, image + delta, others)
            recorded[""] = [_Recorded(image, delta)]
            self.layers = [recorded[layer][-1] for layer in request.layers]
        self.outputs = tuple(output.detach() for output in outputs)
        self.ranking = ranking.detach()
        self._contrast = request.subject.target.contrast

    def gradients(self, classes: Tensor) -> tuple[Tensor, ...]:
        """Of what is explained of classes (B, 1), with respect to what each layer returned."""
        deltas = [layer.delta for layer in self.layers]
        return torch.autograd.grad(self._total(classes), deltas, retain_graph=True)

    def hessian_product(self, classes: Tensor) -> Tensor:
        """Second derivatives of the same at the one layer, times the activation."""
        ((value, delta),) = self.layers
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._total(classes), delta, create_graph=True)
        if not gradient.requires_grad:
            return torch.zeros_like(value)
        try:
            (product,) = torch.autograd.grad(
                gradient, delta, value, retain_graph=True, materialize_grads=True
            )
        except RuntimeError as error:
            raise ExportError(
                "PyTorch has no second derivatives of the model, beside which the file's could be "
                f"proven: {first_line(error)}. Choose a later layer, or another method"
            ) from error
        return product

    def _total(self, classes: Tensor) -> Tensor:
        with torch.enable_grad():
            if self._contrast is None:
                explained = self.scores.gather(1, classes)
            else:
                explained = self._contrast(self.scores, classes)
            # Images do not influence each other, so the gradient of the sum holds each one's own.
            return explained.sum()


def _observe(request: Request, image: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with SoundBatchNorms(), torch.enable_grad():
        outputs: tuple[Tensor, ...] = request.subject(image, *others)
    return outputs


def _raw_maps(request: Request, runs: list[_Run], classes: Tensor) -> list[Tensor]:
    """The raw map (B, *S) of one class per image, (B, 1), at each layer."""
    plain, *noisy = runs
    if request.method.needs == "attention_gradients":
        return [
            kernel(gradient.reshape(len(classes), -1, *gradient.shape[-2:]))
            for kernel, gradient in zip(request.kernels(), plain.gradients(classes), strict=True)
        ]
    arguments = [
        [layout.channels_first(layer.value)]
        for layout, layer in zip(request.layouts, plain.layers, strict=True)
    ]
    if request.method.needs != "activations":
        samples = [run.gradients(classes) for run in noisy or runs]
        for row, layout, found in zip(
            arguments, request.layouts, zip(*samples, strict=True), strict=True
        ):
            gradients = [layout.channels_first(gradient) for gradient in found]
            row.append(torch.stack(gradients) if noisy else gradients[0])
    if request.method.needs == "gradients_and_hessian_products":
        arguments[0].append(request.layouts[0].channels_first(plain.hessian_product(classes)))
    if request.method.needs == "bias_gradients":
        for row, bias in zip(arguments[1:], request.biases, strict=True):
            row[0] = bias
    if request.method.needs == "class_weights":
        # Behind global pooling the gradient is constant, the class's weight over the positions.
        arguments = [[activation, g.flatten(2).sum(dim=2)] for activation, g in arguments]
    return [kernel(*row) for kernel, row in zip(request.kernels(), arguments, strict=True)]


def _guided_maps(request: Request, runs: list[_Run], classes: Tensor) -> list[Tensor]:
    """The raw map (B, *S) of one class per image, (B, 1)."""
    plain, guided = runs
    (kernel,) = request.kernels()
    arguments = [guided.gradients(classes)[0]]
    if len(plain.layers) == 2:
        pair = plain.layers[1].value, plain.gradients(classes)[1]
        arguments = [*map(request.layouts[1].channels_first, pair), *arguments]
    return [kernel(*arguments)]


class _GuidedReLUs(TorchFunctionMode):
    """While it lasts, whatever is called a ReLU in PyTorch is one with a gradient of its own."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _RELUS:
            return func(*args, **kwargs)
        (x,) = args[:1] or (kwargs["input"],)
        y = _GuidedReLU.apply(x)
        in_place = func in _IN_PLACE or kwargs.get("inplace", args[1:] == (True,))
        return x.copy_(y) if in_place else y


_IN_PLACE = {torch.relu_, F.relu_, Tensor.relu_}
_RELUS = {torch.relu, F.relu, Tensor.relu, *_IN_PLACE}


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x > 0)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (active,) = ctx.saved_tensors
        (gradient,) = gradients
        return torch.where(active & (gradient > 0), gradient, 0.0)


class _Recorded(NamedTuple):
    """What a layer returned, and a zero that was added to it and has its gradient."""

    value: Tensor
    delta: Tensor


@contextmanager
def _recorded(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, list[_Recorded]]]:
    """While it lasts, each call of one of the layers is noted under its name."""
    calls: dict[str, list[_Recorded]] = {layer: [] for layer in layers}

    def note(layer: str) -> Any:
        def hook(module: nn.Module, arguments: Any, returned: Any) -> Any:
            # A tensor may come in a tuple or a record; of several, the first is the activation.
            leaves, structure = tree_flatten(returned)
            place = next(n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
            output = leaves[place]
            # A copy, for what follows may work in place and change the recorded value.
            delta = torch.zeros_like(output, requires_grad=True)
            calls[layer].append(_Recorded(output.detach().clone(), delta))
            leaves[place] = output + delta
            return tree_unflatten(leaves, structure)

        return hook

    handles = [model.get_submodule(layer).register_forward_hook(note(layer)) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
