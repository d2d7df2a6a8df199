"""LeGrad: attention that is found in every form, and its map against loops over images."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.errors import ExportError, InputError
from camcore.export import Explained, explain, save
from tests.camcore import references
from tests.export.eager import eagerly
from tests.export.models import NUM_CLASSES, SmallNet, build, images
from tests.export.oracle import run_any_file, worst_error

EXAMPLE = torch.zeros(1, 3, 24, 24)
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


def vit(form: str) -> nn.Module:
    return build(lambda: Vit(form))


@pytest.fixture(scope="module")
def explained() -> Explained:
    return explain(vit("fused"), EXAMPLE, method="legrad")


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


PLAIN_TWIN = {
    "fused": "plain",
    "fused, scaled": "plain, scaled",
    "fused, masked": "plain, masked",
    "fused, biased": "plain, biased",
    "plain": "plain",
    "plain, biased": "plain, biased",
    "mha": "plain",
    "mha, weights": "plain",
}


@pytest.mark.parametrize("form", PLAIN_TWIN)
def test_attention_in_every_form(form: str) -> None:
    explained = explain(vit(form), EXAMPLE, method="legrad")
    assert explained.card.layer == "every attention"
    assert len(explained.found.layers) == 3
    assert_is(explained, vit(PLAIN_TWIN[form]))


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_files_at_other_batch_sizes_and_classes(
    explained: Explained, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"vit{suffix}"
    save(explained, path)
    for batch, ids in ((1, [[4]]), (4, [[0, 3, -1]])):
        image = images(batch, batch, 24, 24)
        scores, classes, maps = run_any_file(path, image, torch.tensor(ids)).values()
        assert worst_error(scores, vit("plain")(image).detach().numpy()) < 1e-4
        expected = by_hand(vit("plain"), image, classes.tolist())
        assert worst_error(maps, expected) < 1e-4


@pytest.mark.parametrize(
    ("layer", "blocks"),
    [("blocks.2", (2,)), ("blocks.1.attn", (1,)), (["blocks.2.attn", "blocks.0"], (0, 2))],
)
def test_the_layers_asked_for(layer: Any, blocks: tuple[int, ...]) -> None:
    explained = explain(vit("fused"), EXAMPLE, method="legrad", layer=layer)
    assert explained.card.layer == (layer if isinstance(layer, str) else ", ".join(layer))
    assert_is(explained, vit("plain"), blocks=blocks)


def test_one_module_with_several_attentions() -> None:
    assert_is(explain(vit("fused"), EXAMPLE, method="legrad", layer="blocks"), vit("plain"))


def test_the_class_tokens_query() -> None:
    explained = explain(vit("fused"), EXAMPLE, method="legrad", queries="class")
    assert_is(explained, vit("plain"), queries=1)
    assert explained.card.options["queries"] == "class"


def test_maps_at_the_size_of_the_grid() -> None:
    explained = explain(vit("fused"), EXAMPLE, method="legrad", full_size=False)
    assert explained(images(1, 2, 24, 24)).saliency_map.shape == (2, 1, 3, 3)
    assert_is(explained, vit("plain"), size=None)


def test_smoothing_over_variants_of_the_image() -> None:
    smooth = explain(vit("fused"), EXAMPLE, method="legrad", aug_smooth=True)
    image = images(2, 3, 24, 24)
    given = smooth(image, IDS)
    variants = []
    for factor in (0.9, 1.0, 1.1):
        straight = by_hand(vit("plain"), factor * image, given.classes.tolist())
        mirrored = by_hand(vit("plain"), factor * image.flip(-1), given.classes.tolist())
        variants += [straight, mirrored[..., ::-1]]
    assert worst_error(given.saliency_map.numpy(), np.mean(variants, axis=0)) < 1e-4


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


def test_grids_of_two_sizes_meet_on_the_finer_one() -> None:
    model = build(Hierarchy)
    explained = explain(model, EXAMPLE, method="legrad")
    assert explained.found.layers == ("fine", "coarse")
    assert any(
        "the attention of few is left out, since 36 queries attend to 9 keys" in note
        for note in explained.card.notes
    )
    image = images(2, 3, 24, 24)
    given = explained(image, IDS)
    raw = {}
    for layer in ("fine", "coarse"):
        alone = explain(
            model, EXAMPLE, method="legrad", layer=layer, full_size=False, normalize=False
        )
        raw[layer] = alone(image, given.classes).saliency_map.double().numpy()
    for b, k in np.ndindex(3, 2):
        coarse = references.resize(raw["coarse"][b, k], (6, 6))
        expected = references.postprocess((raw["fine"][b, k] + coarse) / 2, (24, 24))
        np.testing.assert_allclose(given.saliency_map[b, k], expected, atol=1e-4)
    reference = eagerly(explained, (image,), IDS)
    assert worst_error(given.saliency_map.numpy(), reference.saliency_map.numpy()) < 1e-4


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


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (SmallNet, "the model does not have: there is none. Choose another method"),
        (Windows, "attention of attn is left out, since it attends within windows"),
    ],
)
def test_a_model_without_attention_over_a_grid(make: Any, match: str) -> None:
    with pytest.raises(ExportError, match=match):
        explain(build(make), EXAMPLE, method="legrad")


def test_a_layer_without_attention_lists_those_that_have_it() -> None:
    with pytest.raises(ExportError, match=r"'blocks.1.mlp' does not have.*blocks.0.attn, blocks.1"):
        explain(vit("fused"), EXAMPLE, method="legrad", layer=["blocks.0", "blocks.1.mlp"])


class TwoHeads(Vit):
    """Of the last block's attention, the first output knows nothing."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(x.shape[0], -1, -1), tokens], dim=1)
        early = self.blocks[0](tokens)
        return self.fc(early[:, 0]), self.fc(self.blocks[1](early)[:, 0])


def test_attention_that_the_explained_output_does_not_depend_on() -> None:
    explained = explain(build(TwoHeads), EXAMPLE, method="legrad")
    assert explained.found.layers == ("blocks.0.attn",)
    assert any("blocks.1.attn is left out, since what is" in note for note in explained.card.notes)
    both = explain(build(TwoHeads), EXAMPLE, method="legrad", output=1)
    assert both.found.layers == ("blocks.0.attn", "blocks.1.attn")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"combine": "product"}, "the mean over its layers, got combine 'product'"),
        ({"eigen_smooth": True}, "eigen_smooth"),
        ({"queries": "cls"}, "'all' or 'class', got 'cls'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        explain(vit("fused"), EXAMPLE, method="legrad", **options)(EXAMPLE)


@pytest.mark.parametrize("method", ["legrad", "gradcam"])
def test_tokens_want_one_size(method: str) -> None:
    with pytest.raises(ExportError, match=r"fills the grid of one image size.*leave dynamic_size"):
        explain(vit("fused"), EXAMPLE, method=method, dynamic_size=True)


def test_the_model_is_left_as_it_is() -> None:
    model = vit("mha")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explained = explain(model, EXAMPLE, method="legrad")
    eagerly(explained, (images(1, 2, 24, 24),), IDS[:2])
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def torchvision_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=4)


def timm_vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=4
    )
    return model


def timm_vit_without_a_class_token() -> nn.Module:
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model(
        "vit_base_patch16_siglip_224",
        img_size=32,
        patch_size=8,
        depth=2,
        embed_dim=24,
        num_heads=2,
        num_classes=4,
    )
    return model


def transformers_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=4,
    )
    model: nn.Module = transformers.ViTForImageClassification(config)
    return model


@pytest.mark.parametrize(
    "make", [torchvision_vit, timm_vit, timm_vit_without_a_class_token, transformers_vit]
)
def test_vision_transformers_of_others(make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():  # some come with a classifier of zeros
        nn.init.normal_(parameter, std=0.2)
    explained = explain(model, torch.zeros(1, 3, 32, 32), method="legrad")
    assert len(explained.found.layers) == 2
    (layout,) = set(explained.found.layouts)
    assert layout.grid == (4, 4)
    image, ids = images(1, 2, 32, 32), torch.tensor([[-1, 2]])
    given, expected = (
        explained(image, ids),
        eagerly(explained, (image,), ids),
    )
    assert torch.equal(given.classes, expected.classes)
    assert worst_error(given.saliency_map.numpy(), expected.saliency_map.numpy()) < 1e-4
    assert (given.saliency_map[0] - given.saliency_map[1]).abs().max() > 0.1
