"""The layer that is explained where none is named."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export import list_layers
from camcore.export.find.default import default_layer
from camcore.export.find.grids import Layout
from camcore.export.find.modules import find_activation, layout_of
from camcore.export.trace.subject import MODEL, Subject
from camcore.export.trace.targets import get_target
from camcore.export.trace.trace import Trace, trace
from tests.export.models import EXAMPLE, Classifier, Transformer, build


def test_a_single_point_is_nothing_to_map() -> None:
    model = build(lambda: Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1)), 4))
    with pytest.raises(ExportError, match="1 x 1"):
        find_activation(trace(model, EXAMPLE), "features.1")
    assert default_layer(trace(model, EXAMPLE)) == "features.0"


def test_the_outermost_of_several_names() -> None:
    model = build(lambda: Classifier(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3))), 4))
    assert default_layer(trace(model, EXAMPLE)) == "features"


@pytest.fixture(scope="module")
def transformer() -> Trace:
    return trace(build(Transformer, shape=(3, 32, 24)), torch.zeros(1, 3, 32, 24))


def test_the_default_of_a_transformer_is_what_its_last_attention_reads(transformer: Trace) -> None:
    """Not one of its projections, and not what it makes of them, most of which nobody reads."""
    assert default_layer(transformer) == "blocks.1.norm1"
    layout = layout_of(transformer, find_activation(transformer, "blocks.1.norm1"))
    assert layout == Layout("tokens", 2, (4, 3), prefix=2)


def test_tokens_that_are_returned_are_not_thereby_read() -> None:
    """A tower gives its last tokens beside the embedding, which is made of one of them."""

    class Tower(Transformer):
        def forward(self, image: Tensor) -> Any:
            kept: list[Tensor] = []
            hook = self.blocks.register_forward_hook(lambda *call: kept.append(call[-1]))
            embedding = super().forward(image)
            hook.remove()
            return embedding, kept[0]

    traced = trace(
        Subject(build(Tower, shape=(3, 32, 24)), get_target("logit")),
        torch.zeros(1, 3, 32, 24),
        root=MODEL,
    )
    assert default_layer(traced) == "blocks.1.norm1"


def test_convolutions_may_make_queries_keys_and_values() -> None:
    """They are maps, on a coarser grid than the tokens that they are made of."""

    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, stride=8)
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.norm = nn.LayerNorm(8)
            self.q, self.k, self.v = (nn.Conv2d(8, 8, 3, s, 1, groups=8) for s in (1, 2, 2))
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x)
            token = self.token.expand(x.shape[0], 1, 8)
            tokens = torch.cat([token, x.flatten(2).mT], dim=1)
            normed = self.norm(tokens)
            grid = normed[:, 1:].mT.reshape(x.shape)
            q, k, v = (
                torch.cat([normed[:, :1], make(grid).flatten(2).mT], dim=1)
                for make in (self.q, self.k, self.v)
            )
            tokens = tokens + (q @ k.mT).softmax(2) @ v
            return self.fc(tokens[:, 0])  # type: ignore[no-any-return]

    model = build(Convolved, shape=(3, 48, 32))
    rows = {row.name: row for row in list_layers(model, torch.zeros(1, 3, 48, 32))}
    assert all(rows[name].usable for name in ("q", "k", "v"))
    assert [name for name, row in rows.items() if row.default] == ["norm"]


def test_tokens_are_laid_out_by_a_value_of_the_same_batch() -> None:
    """The stock attention splits (T, B, C) in three: 2 x 3 rows and columns of no image."""

    class Stock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, stride=8)
            self.attention = nn.MultiheadAttention(8, 2)
            self.norm = nn.LayerNorm(8)
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(x).flatten(2).permute(2, 0, 1)
            tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return self.fc(self.norm(tokens.transpose(0, 1)).mean(1))  # type: ignore[no-any-return]

    traced = trace(build(Stock), torch.zeros(1, 3, 24, 24))
    assert default_layer(traced) == "norm"
    assert layout_of(traced, find_activation(traced, "norm")) == Layout("tokens", 2, (3, 3))


class Segmenter(nn.Module):
    """Scores for every pixel, from a bottleneck and a finer grid."""

    def __init__(self, finer: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bottleneck = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.decoder = nn.Conv2d(8, 8, 3, padding=1)
        self.scores = nn.Conv2d(8, 5, 1)
        self.finer = finer

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.stem(x)
        y = self.bottleneck(fine)
        if self.finer:
            y = self.decoder(nn.functional.interpolate(y, size=fine.shape[2:]) + fine)
        else:
            y = self.decoder(y)
        y = nn.functional.interpolate(self.scores(y), size=x.shape[2:], mode="bilinear")
        return {"out": y}


@pytest.mark.parametrize(("finer", "layer"), [(True, "bottleneck"), (False, "decoder")])
def test_the_default_of_a_segmenter_is_not_its_answer(finer: bool, layer: str) -> None:
    traced = trace(build(lambda: Segmenter(finer)), EXAMPLE, dynamic_size=False)
    assert default_layer(traced) == layer


DEFAULTS = {
    "resnet18": ("layer4", 64),
    "alexnet": ("features", 96),
    "squeezenet1_1": ("classifier.2", 64),
    "shufflenet_v2_x0_5": ("conv5", 64),
}


def default_of(name: str, size: int, dynamic_size: bool | None) -> str:
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    return default_layer(trace(model, torch.zeros(1, 3, size, size), dynamic_size=dynamic_size))


# Those of ResNet and SqueezeNet are seen in their files, too.
@pytest.mark.parametrize(
    "name",
    [
        name if name == "alexnet" else pytest.param(name, marks=pytest.mark.slow)
        for name in DEFAULTS
    ],
)
def test_default_layers(name: str) -> None:
    layer, size = DEFAULTS[name]
    assert default_of(name, size, None) == layer


def test_the_default_layer_does_not_depend_on_the_freedom_of_the_size() -> None:
    assert default_of("alexnet", 96, False) == "features"
