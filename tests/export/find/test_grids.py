"""Grids: activations of every layout give the map that a transposition by hand gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.adapters.images import prepare
from camcore.adapters.runner import load
from camcore.errors import ExportError, InputError
from camcore.export import explain, save
from camcore.export.find.grids import Layout, find_layout
from camcore.export.find.modules import find_activation
from camcore.export.trace.trace import trace
from tests.export.models import Classifier, build, images
from tests.export.oracle import (
    TOLERANCE,
    fast_in,
    first_fast,
    maps_by_hand,
    run_any_file,
    worst_error,
)

IDS = [[4, 0], [2, 4], [1, 3]]


def logit(z: Tensor, c: int) -> Tensor:
    return z[0, c]


def layout_at(model: nn.Module, layer: str, *shape: int) -> Layout:
    traced = trace(model, torch.zeros(1, *shape))
    layout = find_layout(find_activation(traced, layer), tuple(shape[1:]))
    assert isinstance(layout, Layout)
    return layout


def check(
    model: nn.Module,
    layer: str | None,
    image: Tensor,
    reshape: Callable[[Tensor], Tensor],
    *,
    found: str = "",
    path: Path | None = None,
) -> None:
    """Eager maps, or those of a file, are those made by hand with that transposition."""
    explained = explain(model, torch.zeros(1, *image.shape[1:]), layer=layer)
    assert explained.card.layer == (layer or found)
    layers = [explained.card.layer]
    if path is None:
        scores, _, maps = explained(image, torch.tensor(IDS))
        # Attention is traced in its plain form, which rounds otherwise than the fused kernels.
        torch.testing.assert_close(scores, model(image), rtol=1e-5, atol=1e-6)
    else:
        save(explained, path)
        _, _, maps = map(torch.tensor, run_any_file(path, image, torch.tensor(IDS)).values())
    expected = maps_by_hand(model, layers, [image], IDS, logit, reshape=reshape)
    assert maps.shape == (3, 2, *image.shape[2:])
    assert worst_error(maps.numpy(), expected) < TOLERANCE
    assert np.abs(expected[0, 0] - expected[1, 1]).max() > 0.05


# Transformers.


class Block(nn.Module):
    """Attention before normalisation, by `nn.MultiheadAttention` or by PyTorch's function."""

    def __init__(self, width: int, *, module: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True) if module else None
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        if self.attention is not None:
            y = self.attention(y, y, y, need_weights=False)[0]
        else:
            batch, tokens, width = y.shape
            q, k, v = self.qkv(y).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            y = self.project(y.reshape(batch, tokens, width))
        x = x + y
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Patches of 8 x 8, tokens in front of them, two blocks; the class token decides, or the mean
    where there is none.
    """

    def __init__(self, size: tuple[int, int], *, prefix: int = 1, module: bool = True) -> None:
        super().__init__()
        width, patches = 12, (size[0] // 8) * (size[1] // 8)
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.prefix = nn.Parameter(torch.randn(1, prefix, width)) if prefix else None
        self.positions = nn.Parameter(0.3 * torch.randn(1, prefix + patches, width))
        self.blocks = nn.Sequential(Block(width, module=module), Block(width, module=module))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.positions))
        return self.head(x.mean(1) if self.prefix is None else x[:, 0])  # type: ignore[no-any-return]


def as_grid(prefix: int, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """What users of pytorch-grad-cam write as their reshape_transform."""
    return lambda x: x[:, prefix:].reshape(len(x), height, width, -1).permute(0, 3, 1, 2)


LAST_NORM = "blocks.1.norm1"


@pytest.mark.parametrize(
    ("prefix", "module"), first_fast([(1, True), (5, False), (5, True), (1, False)], 2)
)
def test_vit(prefix: int, module: bool) -> None:
    model = build(lambda: ViT((24, 40), prefix=prefix, module=module))
    assert layout_at(model, LAST_NORM, 3, 24, 40) == Layout("tokens", 2, (3, 5), prefix)
    check(model, None, images(2, 3, 24, 40), as_grid(prefix, 3, 5), found=LAST_NORM)


@pytest.mark.parametrize(
    "layer", first_fast(["blocks.0.norm2", "blocks.0", "blocks.0.mlp", "blocks.1.norm1"])
)
def test_other_layers_of_a_vit(layer: str) -> None:
    check(build(lambda: ViT((40, 24))), layer, images(2, 3, 40, 24), as_grid(1, 5, 3))


def test_a_vit_without_a_class_token_is_read_to_the_end() -> None:
    model = build(lambda: ViT((24, 40), prefix=0))
    assert layout_at(model, "norm", 3, 24, 40) == Layout("tokens", 2, (3, 5), 0)
    check(model, None, images(2, 3, 24, 40), as_grid(0, 3, 5), found="norm")


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
def test_vit_in_a_file(suffix: str, tmp_path: Path) -> None:
    model = build(lambda: ViT((24, 40)))
    path = tmp_path / f"model{suffix}"
    check(model, None, images(3, 3, 24, 40), as_grid(1, 3, 5), found=LAST_NORM, path=path)


def test_vit_as_pytorch_grad_cam() -> None:
    peer = pytest.importorskip("pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed")
    model_targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, image, ids = build(lambda: ViT((24, 40))), images(2, 3, 24, 40), [4, 0, 2]
    targets = [model_targets.ClassifierOutputTarget(c) for c in ids]
    layers = [model.get_submodule(LAST_NORM)]
    with peer.GradCAM(model, layers, reshape_transform=as_grid(1, 3, 5)) as cam:
        expected = cam(image, targets)
    assert expected.max() > 0.9
    given = explain(model, torch.zeros(1, 3, 24, 40))(image, torch.tensor(ids)[:, None])
    np.testing.assert_allclose(given.saliency_map[:, 0], expected, rtol=0, atol=1e-4)


def test_tokens_of_two_blocks_as_one_map() -> None:
    model, image = build(lambda: ViT((24, 40))), images(2, 3, 24, 40)
    layers = ["blocks.0.norm1", LAST_NORM, "patches"]
    given = explain(model, torch.zeros(1, 3, 24, 40), layer=layers)(image, torch.tensor(IDS))

    def reshape(x: Tensor) -> Tensor:
        return x if x.ndim == 4 else as_grid(1, 3, 5)(x)

    expected = maps_by_hand(model, layers, [image], IDS, logit, reshape=reshape)
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE


# Channels last.


class ChannelsLast(nn.Module):
    """Swin in small, without attention: rows of patches whose channels come last."""

    def __init__(self, width: int, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        x = x + self.mlp(self.norm(x))
        x = x + self.mix(x.permute(0, 3, 1, 2)).tanh().permute(0, 2, 3, 1)
        return self.head(self.last(x).pow(2).mean((1, 2)))  # type: ignore[no-any-return]


def to_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("layer", first_fast(["mlp", "last", "norm", "mlp.0"], 2))
@pytest.mark.parametrize("size", [(24, 40), pytest.param((24, 24), marks=pytest.mark.slow)])
def test_channels_last(layer: str, size: tuple[int, int]) -> None:
    model = build(lambda: ChannelsLast(8))
    assert layout_at(model, layer, 3, *size) == Layout("channels_last", 2)
    check(model, layer, images(2, 3, *size), to_first)


@pytest.mark.parametrize("layer", first_fast(["mix", "patches"]))
def test_channels_first_in_the_same_model(layer: str) -> None:
    model = build(lambda: ChannelsLast(8))
    assert layout_at(model, layer, 3, 24, 40) == Layout("channels_first", 2)
    check(model, layer, images(2, 3, 24, 40), lambda x: x)


@pytest.mark.parametrize("layer", first_fast(["mlp", "mix", "patches", "norm", "mlp.0", "last"], 2))
def test_where_all_sizes_are_equal_the_operators_decide(layer: str) -> None:
    """Six channels on 6 x 6 points, 12 x 6 x 6 inside of the mlp."""
    model = build(lambda: ChannelsLast(6))
    first = layer in ("patches", "mix")
    assert layout_at(model, layer, 3, 24, 24).kind == ("channels_" + ("first" if first else "last"))
    check(model, layer, images(2, 3, 24, 24), (lambda x: x) if first else to_first)


class Scaled(nn.Module):
    """What its block returns is a sum of products: the operators that care are further off."""

    def __init__(self, width: int, *, last: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.block = ScaledBlock(nn.Linear(width, width) if last else nn.Conv2d(width, width, 1))
        self.head = nn.Linear(width, 5)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = self.block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.last else self.block(x)
        return self.head(x.pow(2).mean((2, 3)))  # type: ignore[no-any-return]


class ScaledBlock(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.layer(x).tanh()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("width", "last"),
    first_fast([(6, True), (6, False), (5, True), (5, False), (7, True), (7, False)], 2),
)
def test_the_operators_that_decide_may_be_further_off(width: int, last: bool) -> None:
    model = build(lambda: Scaled(width, last=last))
    assert layout_at(model, "block", 3, 24, 24).kind == "channels_" + ("last" if last else "first")
    assert layout_at(model, "patches", 3, 24, 24).kind == "channels_first"


def test_channels_last_in_a_file_of_free_sizes(tmp_path: Path) -> None:
    model = build(lambda: ChannelsLast(8))
    explained = explain(model, torch.zeros(1, 3, 24, 24), layer="mlp", dynamic_size=True)
    save(explained, tmp_path / "model.onnx")
    image = images(2, 3, 32, 44)
    given = run_any_file(tmp_path / "model.onnx", image, torch.tensor(IDS))["saliency_map"]
    expected = maps_by_hand(model, ["mlp"], [image], IDS, logit, reshape=to_first)
    assert worst_error(given, expected) < TOLERANCE


def test_the_default_layer_of_a_channels_last_model() -> None:
    model = build(lambda: ChannelsLast(8))
    check(model, None, images(2, 3, 24, 40), to_first, found="last")


# One and three axes.


def test_one_axis() -> None:
    model = build(
        lambda: Classifier(nn.Sequential(nn.Conv1d(2, 6, 5, 2), nn.Tanh(), nn.Conv1d(6, 4, 3)), 4),
        shape=(2, 40),
    )
    assert layout_at(model, "features.1", 2, 40) == Layout("channels_first", 1)
    check(model, "features.1", images(2, 3, 40, channels=2), lambda x: x)


class Series(nn.Module):
    """One axis, channels last behind the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 4, 4)
        self.mlp = nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mlp(self.conv(x).transpose(1, 2))
        return self.head(x.pow(2).mean(1))  # type: ignore[no-any-return]


def test_one_axis_channels_last() -> None:
    model = build(Series)
    check(model, "mlp", images(2, 3, 40, channels=2), lambda x: x.transpose(1, 2))
    check(model, "conv", images(2, 3, 40, channels=2), lambda x: x)


@pytest.mark.slow
def test_three_axes(tmp_path: Path) -> None:
    features = nn.Conv3d(2, 6, 3, 2, 1), nn.Tanh(), nn.Conv3d(6, 4, 2), nn.GELU()
    model = build(lambda: Classifier(nn.Sequential(*features), 4), shape=(2, 8, 10, 12))
    image = images(2, 3, 8, 10, 12, channels=2)
    assert layout_at(model, "features.1", 2, 8, 10, 12) == Layout("channels_first", 3)
    check(model, "features.1", image, lambda x: x, path=tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("size", "fixed"),
    [
        ((40,), False),
        ((8, 10, 12), True),
        pytest.param((40,), True, marks=pytest.mark.slow),
        pytest.param((8, 10, 12), False, marks=pytest.mark.slow),
    ],
)
def test_a_runner_of_series_and_of_volumes(
    size: tuple[int, ...], fixed: bool, tmp_path: Path
) -> None:
    conv = nn.Conv1d if len(size) == 1 else nn.Conv3d
    model = build(lambda: Classifier(nn.Sequential(conv(2, 4, 3), nn.Tanh()), 4), shape=(2, *size))
    explained = explain(model, torch.zeros(1, 2, *size), dynamic_size=not fixed)
    save(explained, tmp_path / "model.onnx")
    runner = load(tmp_path / "model.onnx")
    assert tuple(runner.card.image.space.values()) == (size if fixed else (None,) * len(size))
    image = images(3, 2, *[n if fixed else n + 2 for n in size], channels=2)
    given, expected = runner(image.numpy(), [1, -1]), explained(image, torch.tensor([[1, -1]]))
    np.testing.assert_allclose(given.saliency_map, expected.saliency_map, rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="add the batch axis"):
        runner(image.numpy()[0])
    with pytest.raises(
        InputError, match=f"the graph's images have {' x '.join(runner.card.image.space)};"
    ):
        prepare(np.zeros((8, 8, 3), np.uint8), runner.card.image)


# No grid, or none that can be told.


class Windows(nn.Module):
    """Each image as four windows, which stand in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.inside = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).tanh()
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5)
        x = self.inside(x.reshape(batch * 4, channels, height // 2, width // 2)).tanh()
        return self.fc(x.reshape(batch, 4, channels, -1).pow(2).mean((1, 3)))  # type: ignore[no-any-return]


def test_windows_in_the_batch() -> None:
    model = build(Windows)
    with pytest.raises(ExportError, match=r"'inside' cannot be explained: its first axis is not"):
        explain(model, torch.zeros(1, 3, 24, 40), layer="inside")
    check(model, "conv", images(2, 3, 24, 40), lambda x: x)
    assert explain(model, torch.zeros(1, 3, 24, 40)).card.layer == "conv"


class Unfolded(nn.Module):
    """Cuts its image into overlapping patches by hand, as TNT does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 36, 8)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(x, 6, padding=1, stride=4).transpose(1, 2)
        return self.fc(self.norm(self.embed(x)).tanh().pow(2).mean(1))  # type: ignore[no-any-return]


def test_patches_cut_by_hand() -> None:
    check(
        build(Unfolded, shape=(3, 32, 48)),
        None,
        images(2, 3, 32, 48),
        as_grid(0, 8, 12),
        found="norm",
    )


class Reshaped(nn.Module):
    """Cuts its image into patches of 8 x 8 by reshaping, as ViTs without a convolution do."""

    def __init__(self, *, columns: bool = False) -> None:
        super().__init__()
        self.order = (0, 4, 2, 3, 5, 1) if columns else (0, 2, 4, 3, 5, 1)
        self.embed = nn.Linear(3 * 64, 12)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.block = Block(12, module=False)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // 8, 8, width // 8, 8).permute(self.order)
        x = self.embed(x.reshape(batch, -1, 64 * channels))
        x = torch.cat([self.token.expand(batch, -1, -1), x], dim=1)
        return self.fc(self.block(x)[:, 0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("suffix", fast_in(".pt"))
def test_patches_cut_by_reshaping(suffix: str, tmp_path: Path) -> None:
    model, path = build(Reshaped, shape=(3, 32, 48)), tmp_path / f"model{suffix}"
    check(model, None, images(2, 3, 32, 48), as_grid(1, 4, 6), found="block.norm1", path=path)


def test_patches_cut_column_by_column() -> None:
    model = build(lambda: Reshaped(columns=True), shape=(3, 32, 48))
    with pytest.raises(ExportError, match=r"'block' cannot .* 25 tokens are not in the order of"):
        explain(model, torch.zeros(1, 3, 32, 48), layer="block")
    with pytest.raises(ExportError, match=r"no layer of the model .* grid.*[Nn]ame a layer"):
        explain(model, torch.zeros(1, 3, 32, 48))


class Stretched(nn.Module):
    """A ViT whose patches are longer along one axis, as those of videos and spectrograms are."""

    def __init__(self, patch: tuple[int, ...]) -> None:
        super().__init__()
        convolution = nn.Conv2d if len(patch) == 2 else nn.Conv3d
        self.patches = convolution(3, 12, patch, patch)
        self.block = Block(12, module=False)
        self.norm = nn.LayerNorm(12)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.patches(x).flatten(2).transpose(1, 2))
        return self.fc(self.norm(x).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("size", "patch"), [((32, 48), (8, 2)), ((8, 32, 48), (2, 8, 16))], ids=["image", "video"]
)
def test_patches_that_are_no_squares(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    grid = tuple(length // points for length, points in zip(size, patch, strict=True))
    check(
        build(lambda: Stretched(patch), shape=(3, *size)),
        None,
        images(2, 3, *size),
        lambda x: x.transpose(1, 2).unflatten(2, grid),
        found="norm",
    )


class Unrolled(nn.Module):
    """Brings the four tokens of a pool together first, and pools them later, as Hiera does."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 2, 4, 1, 3, 5)
        x = self.before(x.reshape(batch, height * width, channels)).tanh()
        x = self.after(x.reshape(batch, 4, -1, channels).amax(1)).tanh()
        return self.fc(x.pow(2).mean(1))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_tokens_in_another_order() -> None:
    model = build(Unrolled, shape=(3, 32, 48))
    with pytest.raises(ExportError, match=r"'before' cannot .* 96 tokens are not in the order of"):
        explain(model, torch.zeros(1, 3, 32, 48), layer="before")
    check(
        model,
        None,
        images(2, 3, 32, 48),
        as_grid(0, 4, 6),
        found="after",
    )


class ClassTokenLast(nn.Module):
    """Its class token stands behind the patches, which a prefix of one would shift."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([x, self.token.expand(x.shape[0], -1, -1)], dim=1))
        return self.fc(x.tanh().pow(2).mean(1))  # type: ignore[no-any-return]


def test_a_class_token_behind_the_patches() -> None:
    with pytest.raises(ExportError, match=r"'norm' cannot .* of its 16 tokens, those that are no"):
        explain(build(ClassTokenLast), torch.zeros(1, 3, 24, 40), layer="norm")


class ClassTokenAlone(nn.Module):
    """Its last layer normalises the class token and nothing of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = Block(8, module=False)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.block(torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1))
        return self.fc(self.norm(x[:, :1]).flatten(1))  # type: ignore[no-any-return]


def test_a_class_token_alone() -> None:
    with pytest.raises(ExportError, match=r"'norm' cannot .* no row of tokens that fills a grid"):
        explain(build(ClassTokenAlone), torch.zeros(1, 3, 24, 40), layer="norm")


class Mixed(nn.Module):
    """Tokens that are mixed to another number of them fill no grid."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, 8)
        self.fewer = nn.Linear(15, 7)
        self.tokens = nn.LayerNorm(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fewer(self.patches(x).flatten(2)).transpose(1, 2)
        return self.fc(self.tokens(x).pow(2).mean(1))  # type: ignore[no-any-return]


def test_tokens_that_fill_no_grid() -> None:
    with pytest.raises(ExportError, match=r"no row of tokens that fills a grid"):
        explain(build(Mixed), torch.zeros(1, 3, 24, 40), layer="tokens")


def test_a_point_is_no_map() -> None:
    model = build(lambda: Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), 4))
    with pytest.raises(ExportError, match=r"1 x 1, there is nothing to map"):
        explain(model, torch.zeros(1, 3, 24, 24), layer="features.1")


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout("channels_first", 2), ""),
        (Layout("channels_last", 2), "channels last"),
        (Layout("tokens", 2, (3, 5)), "3 x 5 tokens"),
        (Layout("tokens", 2, (3, 5), 5), "3 x 5 tokens behind 5 others"),
    ],
)
def test_a_layout_in_words(layout: Layout, words: str) -> None:
    assert layout.describe() == words


def test_layouts_of_values() -> None:
    x: Any = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert Layout("channels_first", 2).channels_first(x) is x
    assert torch.equal(Layout("channels_last", 2).channels_first(x), x.permute(0, 3, 1, 2))
    tokens = torch.arange(2 * 13 * 5).reshape(2, 13, 5)
    given = Layout("tokens", 2, (3, 4), 1).channels_first(tokens)
    assert given.shape == (2, 5, 3, 4)
    assert torch.equal(given[1, :, 2, 1], tokens[1, 1 + 2 * 4 + 1])


# Masks.


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout("channels_first", 2), (2, 5, 3, 4)),
        (Layout("channels_last", 2), (2, 3, 4, 5)),
        (Layout("tokens", 2, (3, 4)), (2, 12, 5)),
        (Layout("tokens", 2, (3, 4), prefix=2), (2, 14, 5)),
        (Layout("channels_first", 1), (2, 5, 7)),
        (Layout("channels_last", 1), (2, 7, 5)),
        (Layout("channels_last", 3), (2, 3, 2, 4, 5)),
    ],
)
def test_masks_as_factors_of_an_activation(layout: Layout, shape: tuple[int, ...]) -> None:
    activation = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grid = layout.channels_first(activation)
    masks = torch.rand(6, *grid.shape[2:], generator=torch.Generator().manual_seed(1))
    masked = activation * layout.mask(masks)
    assert masked.shape == (6, *shape)
    for n, mask in enumerate(masks):
        torch.testing.assert_close(layout.channels_first(masked[n]), grid * mask)
        # Class tokens and registers stay as they are.
        if layout.prefix:
            assert torch.equal(masked[n][:, : layout.prefix], activation[:, : layout.prefix])
