"""Attention is found in every form that models write it in, or told why not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export import explain
from tests.export.attending import Vit, Windows, assert_is, vit
from tests.export.eager import eagerly
from tests.export.models import EXAMPLE, SmallNet, build, images
from tests.export.oracle import first_fast, worst_error

pytestmark = pytest.mark.usefixtures("shared_traces")
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


@pytest.mark.parametrize("method", ["legrad", "gradcam"])
def test_tokens_want_one_size(method: str) -> None:
    with pytest.raises(ExportError, match=r"fills the grid of one image size.*leave dynamic_size"):
        explain(vit("fused"), EXAMPLE, method=method, dynamic_size=True)


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
    "make",
    first_fast([torchvision_vit, timm_vit, timm_vit_without_a_class_token, transformers_vit]),
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
