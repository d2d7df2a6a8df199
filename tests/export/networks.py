"""Random small networks: a stem, a layer to explain, and behind it some of all kinds of blocks.

Each takes images (B, 3, H, W) and returns scores (B, N). The blocks come from `BLOCKS`, which has
one or more for each gradient rule, and for the operators that PyTorch's own table covers.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER = "layer"


class Do(nn.Module):
    """A function of a map (B, C, H, W)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Beside(nn.Module):
    """What a block gives, joined with what came in."""

    def __init__(self, block: nn.Module, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.join = block, join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.block(x))


class Attention(nn.Module):
    """Every point looks at every other one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attend = nn.MultiheadAttention(channels, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        tokens = self.attend(tokens, tokens, tokens, need_weights=False)[0]
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class Last(nn.Module):
    """A block of channels that come last."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _shuffled(x: Tensor) -> Tensor:
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _squeezed(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


def _where_it_is_strongest(x: Tensor) -> Tensor:
    return x * x.mean(1, keepdim=True).flatten(2).softmax(2).unflatten(2, x.shape[2:]) * 9


C = 8

# Each keeps C channels.
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "convolution": partial(nn.Conv2d, C, C, 3, padding=1),
    "strided convolution": partial(nn.Conv2d, C, C, 3, stride=2, padding=1),
    "dilated convolution": partial(nn.Conv2d, C, C, 3, padding=2, dilation=2),
    "oblong convolution": partial(nn.Conv2d, C, C, (1, 5), stride=(1, 2), padding=(0, 2)),
    "grouped convolution": partial(nn.Conv2d, C, C, 3, padding=1, groups=2),
    "depthwise convolution": partial(nn.Conv2d, C, C, 3, padding=1, groups=C),
    "strided depthwise convolution": partial(nn.Conv2d, C, C, 5, 2, 2, groups=C, bias=False),
    "strided 1 x 1 convolution": partial(nn.Conv2d, C, C, 1, stride=2),
    "reflecting convolution": partial(nn.Conv2d, C, C, 3, padding=1, padding_mode="reflect"),
    "replicating convolution": partial(nn.Conv2d, C, C, 3, padding=1, padding_mode="replicate"),
    "circular convolution": partial(nn.Conv2d, C, C, 3, padding=1, padding_mode="circular"),
    "transposed convolution": partial(nn.ConvTranspose2d, C, C, 3, 2, 1, output_padding=1),
    "batch norm": partial(nn.BatchNorm2d, C),
    "group norm": partial(nn.GroupNorm, 2, C),
    "instance norm": partial(nn.InstanceNorm2d, C, affine=True),
    "layer norm": lambda: Last(nn.LayerNorm(C)),
    "local response norm": partial(nn.LocalResponseNorm, 3),
    "unit norm": lambda: Do(partial(F.normalize, dim=1)),
    "linear": lambda: Last(nn.Linear(C, C)),
    "ReLU": nn.ReLU,
    # Behind a value that autograd does not need as it was.
    "ReLU in place": lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU(inplace=True)),
    "ReLU6": nn.ReLU6,
    "hard tanh": partial(nn.Hardtanh, -0.7, 0.9),
    "threshold": partial(nn.Threshold, 0.1, -0.2),
    "leaky ReLU": partial(nn.LeakyReLU, 0.1),
    "PReLU": partial(nn.PReLU, C),
    "ELU": nn.ELU,
    "SELU": nn.SELU,
    "CELU": partial(nn.CELU, 0.5),
    "GELU": nn.GELU,
    "GELU by tanh": partial(nn.GELU, "tanh"),
    "SiLU": nn.SiLU,
    "mish": nn.Mish,
    "hard swish": nn.Hardswish,
    "hard sigmoid": nn.Hardsigmoid,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "soft sign": nn.Softsign,
    "log sigmoid": nn.LogSigmoid,
    "GLU": lambda: nn.Sequential(nn.Conv2d(C, 2 * C, 1), nn.GLU(1)),
    "max pool": partial(nn.MaxPool2d, 2),
    "overlapping max pool": partial(nn.MaxPool2d, 3, 2, 1),
    "dilated max pool": partial(nn.MaxPool2d, 3, 1, 1, dilation=2),
    "max pool to the end": partial(nn.MaxPool2d, 3, 2, ceil_mode=True),
    "average pool": partial(nn.AvgPool2d, 2),
    "overlapping average pool": partial(nn.AvgPool2d, 3, 2, 1),
    "average pool of what there is": partial(nn.AvgPool2d, 3, 2, 1, count_include_pad=False),
    "average pool to the end": partial(nn.AvgPool2d, 3, 2, ceil_mode=True),
    "power pool": lambda: nn.Sequential(nn.Softplus(), nn.LPPool2d(2, 2)),
    "squeeze and excite": lambda: Do(_squeezed),
    "spatial attention": lambda: Do(_where_it_is_strongest),
    "self-attention": partial(Attention, C),
    "nearest": partial(nn.Upsample, scale_factor=2),
    "nearest exact": partial(nn.Upsample, scale_factor=2, mode="nearest-exact"),
    "bilinear": partial(nn.Upsample, scale_factor=2, mode="bilinear"),
    "bilinear corners": partial(nn.Upsample, scale_factor=2, mode="bilinear", align_corners=True),
    "bicubic": partial(nn.Upsample, scale_factor=2, mode="bicubic"),
    "pixel shuffle": lambda: nn.Sequential(nn.Conv2d(C, 4 * C, 1), nn.PixelShuffle(2)),
    "pixel unshuffle": lambda: nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2), nn.Conv2d(C, C, 1)
    ),
    "channel shuffle": lambda: Do(_shuffled),
    "zero pad": partial(nn.ZeroPad2d, (1, 0, 2, 1)),
    "constant pad": partial(nn.ConstantPad2d, 1, 0.5),
    "crop by a pad": partial(nn.ZeroPad2d, (-1, 1, 1, -1)),
    "reflection pad": partial(nn.ReflectionPad2d, 1),
    "replication pad": partial(nn.ReplicationPad2d, (2, 0, 1, 1)),
    "slice": lambda: Do(lambda x: x[:, :, 1:, :-1]),
    "strided slice": lambda: Do(lambda x: x[..., ::2]),
    "select": lambda: Do(lambda x: x + x[:, :1] - x[:, 3, None]),
    "split and swapped": lambda: Do(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "flip": lambda: Do(lambda x: x + 0.5 * x.flip(3)),
    "roll": lambda: Do(lambda x: x - 0.5 * x.roll(1, 2)),
    "transpose": lambda: Do(lambda x: x.transpose(2, 3)),
    "clamp": lambda: Do(lambda x: x.clamp(-0.8)),
    "maximum": lambda: Do(lambda x: torch.maximum(x, 0.3 * x.flip(1))),
    "strongest channel": lambda: Do(lambda x: x + x.amax(1, keepdim=True)),
    "where": lambda: Do(lambda x: torch.where(x > 0.1, x, 0.2 * x * x)),
    "root": lambda: Do(lambda x: x.square().add(1e-3).sqrt()),
    "exponential": lambda: Do(lambda x: torch.exp(-x.square())),
    "variance": lambda: Do(lambda x: x / (x.std((2, 3), keepdim=True, correction=0) + 1)),
    "sum of residuals": lambda: Beside(nn.Conv2d(C, C, 3, 1, 1), torch.add),
    "product of branches": lambda: Beside(nn.Conv2d(C, C, 1), torch.mul),
    "concatenated branches": lambda: nn.Sequential(
        Beside(nn.Conv2d(C, C, 3, 1, 1), lambda x, y: torch.cat([x, y], 1)),
        nn.Conv2d(2 * C, C, 1),
    ),
    "stacked branches": lambda: Beside(
        nn.Conv2d(C, C, 1), lambda x, y: torch.stack([x, y], 2).mean(2)
    ),
}

# From a map of C channels to (B, C').
POOLS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mean": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), C),
    "strongest": (lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), C),
    "mean and strongest": (
        lambda: Do(lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)),
        2 * C,
    ),
    "log-sum-exp": (lambda: Do(lambda x: x.flatten(2).logsumexp(2)), C),
    "generalised mean": (lambda: Do(lambda x: x.clamp(1e-2).pow(3).mean((2, 3)).pow(1 / 3)), C),
}

TWO_BY_TWO: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "four means": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), 4 * C),
    "four maxima": (lambda: nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten()), 4 * C),
}


class Network(nn.Module):
    """Explained is what `layer` gives."""

    def __init__(self, blocks: list[str], pool: str, before: list[str], classes: int) -> None:
        super().__init__()
        make_pool, width = (POOLS | TWO_BY_TWO)[pool]
        self.stem = nn.Sequential(
            nn.Conv2d(3, C, 3, 2, 1), *(BLOCKS[name]() for name in before), nn.Conv2d(C, C, 1)
        )
        self.layer = nn.Conv2d(C, C, 3, padding=1)
        self.tail = nn.Sequential(*(BLOCKS[name]() for name in blocks))
        self.pool = make_pool()
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(torch.tanh(self.stem(x)))
        return self.fc(self.pool(self.tail(x)))  # type: ignore[no-any-return]


def network(seed: int, *, of_two: bool = True) -> tuple[Callable[[], nn.Module], str]:
    """A network to be built, and what it is made of.

    The first blocks of networks 0, 1, 2, ... are those of the table, one after the other.
    `of_two` lets it end in a grid of two by two points.
    """
    random = Random(seed)
    names = list(BLOCKS)
    blocks = [names[seed % len(names)], *random.choices(names, k=random.randint(0, 3))]
    random.shuffle(blocks)
    before = random.choices(names, k=random.randint(0, 1))
    pool = random.choice(list(POOLS | TWO_BY_TWO if of_two else POOLS))
    classes = random.choice([1, 2, 5, 12])
    made_of: Any = f"{before} -> {LAYER} -> {blocks} -> {pool} -> {classes} classes"
    return partial(Network, blocks, pool, before, classes), made_of
