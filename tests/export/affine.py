"""Models that are affine behind a layer, and others."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.export.models import NUM_CLASSES

EXAMPLE = torch.zeros(1, 3, 12, 12)

# From what the layer returns, (B, 6, 12, 12), and the image to scores (B, N), or features (B, ...).
Tail = Callable[[Tensor, Tensor], Tensor]


class Net(nn.Module):
    """A convolution, and a tail with what weights it may need."""

    def __init__(self, tail: Tail | nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.tail = tail if isinstance(tail, nn.Module) else None
        self.function = tail
        self.fc = nn.Linear(6, NUM_CLASSES)
        self.register_buffer("factors", torch.linspace(-1, 2, 6)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        x = self.function(x, image) if self.tail is None else self.tail(x)
        x = x.flatten(2).mean(2) if x.ndim > 2 else x
        return self.fc(x) if x.shape[1] == 6 else x  # type: ignore[no-any-return]


def half(x: Tensor) -> Tensor:
    return x.chunk(2, dim=1)[0]


def weighed(x: Tensor) -> Tensor:
    """Points that do not count alike: the mean of what is normalised says nothing."""
    return x * torch.linspace(0, 3, 144).reshape(12, 12)


class Kernel(nn.Module):
    """The activation is the weight of a convolution of ones."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        ones = torch.ones(1, b * c, h, w)
        return F.conv2d(ones, x.reshape(b * c, 1, h, w), groups=b * c).reshape(b, c, 1, 1)


AFFINE: dict[str, Tail | nn.Module] = {
    "nothing": lambda x, image: x,
    "a convolution": nn.Conv2d(6, 6, 3),
    "batch norm": nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)),
    "average pools": nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)),
    "flattened, then linear": nn.Sequential(nn.Flatten(), nn.Linear(6 * 144, NUM_CLASSES)),
    "two linear layers": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 9), nn.Linear(9, 4)
    ),
    "channels last": lambda x, image: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "dropout": nn.Sequential(nn.Dropout(0.5), nn.Conv2d(6, 6, 1), nn.Dropout2d(0.5)),
    "upsampling": lambda x, image: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "padding": lambda x, image: F.pad(x, (1, 0, 1, 0), value=3.0),
    "x + x": lambda x, image: x + x,
    "what passes by": lambda x, image: 2 * x - image.sum(1, keepdim=True).relu(),
    "a gate from before": lambda x, image: x * image.mean((1, 2, 3), keepdim=True).sigmoid(),
    "halves": lambda x, image: torch.cat([half(x), x.split([2, 4], dim=1)[1][:, 1:]], dim=1),
    "its size": lambda x, image: x.sum((2, 3), keepdim=True) / x.shape[2],
    "a matrix product": lambda x, image: (
        torch.eye(12) @ x @ torch.ones(12, 2) / torch.arange(1, 13)[:, None]
    ),
    "one place": lambda x, image: x[:, :, 3, ::2],
    "less": lambda x, image: (-x).sub(1, alpha=0.3).unsqueeze(2).squeeze(2).transpose(2, 3),
}
OTHERS: dict[str, Tail | nn.Module] = {
    "relu": nn.ReLU(),
    "gelu": nn.Sequential(nn.Conv2d(6, 6, 3), nn.GELU()),
    "max pool": nn.MaxPool2d(2),
    "maximum": lambda x, image: x.amax((2, 3)),
    "maximum, of a pair": lambda x, image: x + x.max(dim=1, keepdim=True)[0],
    "softmax": lambda x, image: x.mean((2, 3)).softmax(1),
    "layer norm": lambda x, image: weighed(F.layer_norm(x, (12,))),
    "group norm": nn.GroupNorm(2, 6),
    "instance norm": lambda x, image: weighed(F.instance_norm(x)),
    "batch norm in training": lambda x, image: weighed(F.batch_norm(x, None, None, training=True)),
    "x * x": lambda x, image: x * x,
    "x squared": lambda x, image: x.square(),
    "a gate": lambda x, image: x * x.mean((2, 3), keepdim=True),
    "x @ x": lambda x, image: x @ x,
    "1 / x": lambda x, image: 1 / (x.mean((2, 3)) + 3),
    "a quotient of sums": lambda x, image: image.sum(1, keepdim=True) / (x + 12),
    "a kernel": Kernel(),
    "the absolute value": lambda x, image: x.abs(),
    "rounded quotient": lambda x, image: torch.div(x, 0.5, rounding_mode="floor"),
    "whole numbers": lambda x, image: (5 * x).sum((2, 3), dtype=torch.int64) / 5.0,
    "relu of one half": lambda x, image: x + half(x).relu().sum(1, keepdim=True),
    "addmm": lambda x, image: torch.addmm(x[0, 0], x[0, 0], x[0, 1])[:6].mean(1) + x.mean((2, 3)),
    "a clamp": lambda x, image: x.clamp(-0.1, 0.1),
    "a choice": lambda x, image: torch.where(x > 0, x, 0.2 * x),
}
# They are affine, which is not worth being told.
UNTOLD = {"a kernel"}
