"""Biases: the layers of a model that add some, which FullGrad tells the score apart into."""

import torch
from torch import Tensor, nn


def find_biases(model: nn.Module) -> dict[str, Tensor]:
    """What each convolution and batch normalisation adds to its channels, (C,), by layer.

    A batch normalisation with fixed statistics is an affine map; its bias is what it makes of 0.

    Source: Srinivas and Fleuret 2019, section 3.2, https://arxiv.org/abs/1905.00780
    """
    found = {}
    for name, module in model.named_modules():
        bias = _bias(module)
        if bias is not None:
            found[name] = bias.detach()
    return found


def _bias(module: nn.Module) -> Tensor | None:
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.bias
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        mean, variance = module.running_mean, module.running_var
        if mean is None or variance is None:
            return None
        bias = -mean * torch.rsqrt(variance + module.eps)
        if module.affine:
            bias = bias * module.weight + module.bias
        return bias
    return None
