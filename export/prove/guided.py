"""The reference of guided gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from camcore.export.finish import finish
from camcore.export.prove.eager import Eager, Run
from camcore.guided import times_coarse
from camcore.weighting import gradcam


class Guided(Eager):
    """Maps of guided gradients at the image, and maybe of a layer's own."""

    def raw_maps(self, run: Run, classes: Tensor) -> list[Tensor]:
        with _GuidedReLUs():
            self._guided = self.observe(run.inputs)
        return super().raw_maps(run, classes)

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        rank = self.request.spatial_ndim
        arguments = [self.gradients(self._guided, classes)[0]]
        if len(run.layers) == 2:
            pair = run.layers[1].value, self.gradients(run, classes)[1]
            layout = self.found.layouts[1]
            activation, gradient = map(layout.channels_first, pair)
            if layout.frames:
                fine = arguments[0].sum(dim=1)  # (B, T, H, W)
                return [times_coarse(fine, gradcam(activation, gradient), spatial_ndim=rank)]
            arguments = [activation, gradient, *arguments]
        return [self.request.method.kernel(*arguments, spatial_ndim=rank)]

    def finish(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        return finish(self.request, maps, None)  # they have the image's size


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
