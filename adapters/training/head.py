"""Head: a trained model's last layer, made anew for other classes."""

from torch import nn

from camcore.errors import InputError


def with_classes(model: nn.Module, count: int) -> nn.Module:
    """The model, whose last linear layer, or last convolution, now gives so many scores.

    The layer has random weights, unless it gave as many scores before. The model is changed.

    Raises:
        InputError: it has no such layer.

    >>> with_classes(nn.Sequential(nn.Linear(4, 1000)), 80)
    Sequential(
      (0): Linear(in_features=4, out_features=80, bias=True)
    )
    """
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no linear layer and no convolution whose scores could be "
            "those of other classes"
        )
    name, last = layers[-1]
    biased = last.bias is not None
    if isinstance(last, nn.Linear):
        if last.out_features != count:
            model.set_submodule(name, nn.Linear(last.in_features, count, bias=biased))
    elif last.out_channels != count:
        kernel = (last.kernel_size[0], last.kernel_size[1])
        model.set_submodule(name, nn.Conv2d(last.in_channels, count, kernel, bias=biased))
    return model
