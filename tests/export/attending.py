"""Models that attend, and LeGrad's maps of them by loops over images."""

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.export import Explained
from tests.camcore import references
from tests.export.eager import eagerly
from tests.export.models import NUM_CLASSES, build, images
from tests.export.oracle import worst_error

IDS = torch.tensor([[-1, 0], [1, 4], [2, 2]])
PREFIX, HEADS = 2, 3


class Attention(nn.Module):
    """Self-attention in one of the forms that models write it in; `delta` is for the oracle."""

    def __init__(self, form: str, channels: int) -> None:
        super().__init__()
        self.form = form
        self.mha = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.softmax = nn.Softmax(dim=-1)
        tokens = PREFIX + 9
        seen = torch.rand(tokens, tokens, generator=torch.Generator().manual_seed(1)) > 0.3
        self.register_buffer("seen", seen | torch.eye(tokens, dtype=torch.bool))
        self.delta: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.form.startswith("mha"):
            returned: Tensor = self.mha(x, x, x, need_weights=self.form == "mha, weights")[0]
            return returned
        projected = F.linear(x, self.mha.in_proj_weight, self.mha.in_proj_bias)
        q, k, v = projected.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.mha.out_proj(self._attend(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.form == "fused":
            return F.scaled_dot_product_attention(q, k, v)
        if self.form == "fused, scaled":
            return F.scaled_dot_product_attention(q, k, v, scale=0.9)
        if self.form == "fused, masked":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.seen)
        if self.form == "fused, biased":
            return F.scaled_dot_product_attention(q, k, v, self.seen.float())
        scores = q @ k.transpose(-2, -1)
        if self.form == "plain, scaled":
            weights = torch.softmax(0.9 * scores, -1)
        elif self.form == "plain, masked":
            scores = scores.masked_fill(~self.seen, float("-inf")) * q.shape[-1] ** -0.5
            weights = scores.softmax(dim=-1)
        elif self.form == "plain, biased":
            weights = F.softmax(scores * q.shape[-1] ** -0.5 + self.seen.to(q), dim=3)
        else:
            weights = self.softmax(scores * q.shape[-1] ** -0.5)
        if self.delta is not None:
            weights = weights + self.delta
        return weights @ v


class Block(nn.Module):
    def __init__(self, form: str, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = Attention(form, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 20), nn.GELU(), nn.Linear(20, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Vit(nn.Module):
    """Patches of 8, a class token and a register, three blocks."""

    def __init__(self, form: str = "fused", channels: int = 18) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 8, stride=8)
        self.prefix = nn.Parameter(torch.randn(1, PREFIX, channels))
        self.blocks = nn.Sequential(*(Block(form, channels) for _ in range(3)))
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(x.shape[0], -1, -1), tokens], dim=1)
        return self.fc(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]


def by_hand(
    model: nn.Module,
    image: Tensor,
    classes: Any,
    blocks: tuple[int, ...] = (0, 1, 2),
    *,
    queries: int | None = None,
    size: tuple[int, int] | None = (24, 24),
) -> np.ndarray:
    """Maps (B, K, *S), in double precision, one image and one class at a time."""
    twin: Any = deepcopy(model).double()
    T = PREFIX + 9
    maps = []
    for one, ids in zip(image.double(), classes, strict=True):
        attentions = [twin.blocks[n].attn for n in blocks]
        for attention in attentions:
            attention.delta = torch.zeros(1, HEADS, T, T, dtype=torch.float64, requires_grad=True)
        scores = twin(one[None])[0]
        own = []
        for c in ids:
            deltas = [attention.delta for attention in attentions]
            found = torch.autograd.grad(scores[c], deltas, retain_graph=True)
            raw = np.zeros(T - PREFIX)
            for gradient in found:
                positive = np.maximum(gradient[0].numpy(), 0)[:, :queries, PREFIX:]
                raw += positive.mean(axis=(0, 1)) / len(found)
            own.append(references.postprocess(raw.reshape(3, 3), size))
        maps.append(own)
    return np.array(maps)


@cache
def vit(form: str) -> nn.Module:
    return build(lambda: Vit(form))


def assert_is(explained: Explained, plain: nn.Module, **options: Any) -> None:
    """The explained model's maps are those that loops find with a model of the same weights."""
    image = images(2, 3, 24, 24)
    given = explained(image, IDS)
    expected = by_hand(plain, image, given.classes.tolist(), **options)
    assert worst_error(given.saliency_map.numpy(), expected) < 1e-4
    assert np.abs(expected[0] - expected[2]).max() > 0.1
    reference = eagerly(explained, (image,), IDS)
    assert worst_error(reference.saliency_map.numpy(), expected) < 1e-4
    torch.testing.assert_close(given.scores, plain(image))


class Hierarchy(nn.Module):
    """Attention over two grids, and over keys of which there are fewer than queries."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.fine, self.few = Pixels(8), Pixels(8, reduction=2)
        self.down = nn.Conv2d(8, 8, 2, stride=2)
        self.coarse = Pixels(8)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.few(self.fine(self.stem(x)))
        return self.fc(self.coarse(self.down(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Pixels(nn.Module):
    """Attention among the points of a map (B, C, H, W)."""

    def __init__(self, channels: int, reduction: int = 1) -> None:
        super().__init__()
        self.reduce = nn.AvgPool2d(reduction)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, _, _ = self.qkv(x).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        _, k, v = self.qkv(self.reduce(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + 3 * y.squeeze(1).transpose(1, 2).reshape(x.shape)


class Windows(nn.Module):
    """Attention within quarters of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).unflatten(3, (2, 3)).unflatten(2, (2, 3))
        x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, 8)
        x = self.attn(x, x, x, need_weights=False)[0]
        return self.fc(x.reshape(-1, 36, 8).mean(1))  # type: ignore[no-any-return]
