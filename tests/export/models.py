"""Small models, each with one trait that a trace, a cut or a gradient may stumble over.

All take images (B, 3, H, W), or what their docstring says, and return scores (B, 5).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_CLASSES = 5
# Only its shape matters.
EXAMPLE = torch.zeros(1, 3, 24, 24)


def build(
    make: Callable[[], nn.Module], seed: int = 0, *, shape: tuple[int, ...] = (3, 24, 24)
) -> nn.Module:
    """A model in eval mode, with seeded weights and batch norms that have seen data of that shape.

    Batch norms that have seen none, or only noise, let the activations of a deep model shrink or
    grow from layer to layer, until single precision says nothing about it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        norms = [
            module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        for norm in norms:
            norm.momentum = None  # the plain average
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.2)
        if norms:
            model.train()
            with torch.no_grad():
                model(images(seed, 8, *shape[1:], channels=shape[0]))
    return model.eval()


def images(seed: int, batch: int, *shape: int, channels: int = 3) -> Tensor:
    """Smooth random images (B, channels, *shape), with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, *[3] * len(shape), generator=generator)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    smooth = F.interpolate(coarse, size=shape, mode=mode)
    return 2 * smooth + 0.3 * torch.randn(batch, channels, *shape, generator=generator)


class Residual(nn.Module):
    """Two convolutions and what passes them by: cut inside, the input crosses beside the cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)  # called twice

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.conv2(inner) + x)  # type: ignore[no-any-return]


class SmallNet(nn.Module):
    """A ResNet in small: strides, max pooling, batch norm, a skip connection, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=1, padding=1),
        )
        self.block = Residual(8)
        self.top = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.top(self.block(self.stem(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """Features, pooled, then a linear layer; `features` may be anything that gives (B, C, *S)."""

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = features
        self.fc = nn.Linear(channels, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(2).mean(2))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Inception in small: a split, two branches, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.left = nn.Conv2d(4, 6, 3, padding=1)
        self.right = nn.AvgPool2d(3, stride=1, padding=1)
        self.mixed = nn.Conv2d(10, 12, 1)
        self.fc = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, dim=1)
        x = torch.cat([self.left(a).relu(), self.right(b)], dim=1)
        return self.fc(self.mixed(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Borders(nn.Module):
    """Borders of every kind, norms and pooling by statistics of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.around = nn.Conv2d(8, 6, 3, padding=(1, 2), padding_mode="circular")
        self.fc = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        # Of what goes straight into such a norm, the gradient's mean is zero, and so is the map.
        x = F.pad(self.stem(x).tanh(), (1, 3, 2, 0), mode="reflect")
        x = F.pad(self.around(self.norm(x)), (0, 2, 3, 1), mode="replicate")
        x = F.instance_norm(x).sigmoid()
        return self.fc(x.std((2, 3)) + x.var((2, 3)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Reads its columns one after the other, as text recognition does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.reader = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        columns, _ = self.reader(self.stem(x).mean(2).transpose(1, 2))
        return self.fc(columns[:, -1])  # type: ignore[no-any-return]


class GridSampler(nn.Module):
    """A spatial transformer: `grid_sample` has no gradient rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.warp = Warp()
        self.fc = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.warp(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Warp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        turn = torch.tensor([[[0.8, -0.6, 0.0], [0.6, 0.8, 0.0]]]).expand(x.shape[0], 2, 3)
        grid = F.affine_grid(turn, list(x.shape), align_corners=False)
        return F.grid_sample(x.tanh(), grid, mode="bicubic", align_corners=False)


class Attention(nn.Module):
    """Attention with a layer each for queries, keys and values, the first of them normalised."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(channels, channels) for _ in range(3))
        self.q_norm = nn.LayerNorm(channels // heads)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

        k, v, q = split(self.k(x)), split(self.v(x)), self.q_norm(split(self.q(x)))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.mlp = nn.Sequential(nn.Linear(channels, 24), nn.GELU(), nn.Linear(24, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A vision transformer in small: patches of 8, a class token and a register, two blocks."""

    def __init__(self, channels: int = 12, heads: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 8, stride=8)
        self.prefix = nn.Parameter(torch.randn(1, 2, channels))
        self.blocks = nn.Sequential(*(Block(channels, heads) for _ in range(2)))
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(x.shape[0], -1, -1), tokens], dim=1)
        return self.fc(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]


class Head(nn.Module):
    """A convolution, then whatever `head` makes of its features."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x))  # type: ignore[no-any-return]


class Mean(nn.Module):
    def __init__(self, axes: tuple[int, ...], keepdim: bool = False) -> None:
        super().__init__()
        self.axes, self.keepdim = axes, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes, self.keepdim)


class Pyramid(nn.Module):
    """Returns two tensors, and has a layer that nobody listens to."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = Levels()
        self.unheard = nn.Conv2d(4, 4, 1)
        self.tokens = nn.Flatten(2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.levels(x)
        self.unheard(fine)
        x = self.tokens(fine + nn.functional.interpolate(coarse, fine.shape[2:]))
        return self.fc(x.mean(2))  # type: ignore[no-any-return]


class Levels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        return x, nn.functional.max_pool2d(x, 2)


# Why its layers cannot be explained.
REASONS = {
    "unheard": "never reaches the prediction",
    "levels": "returns 2 tensors",
    "tokens": "row of tokens",
    "fc": "no spatial axes",
}
