"""The way back of one token, where a classifier reads but one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from camcore.export import explain, save
from camcore.export.cut import cut
from camcore.export.find.modules import find_activation
from camcore.export.gradient.body import GradientBody
from camcore.export.gradient.narrow import narrow
from camcore.export.trace.graphs import outputs_of
from camcore.export.trace.trace import trace
from tests.export.models import EXAMPLE, NUM_CLASSES, build, images
from tests.export.oracle import TOLERANCE, fast_in, maps_by_hand, run_any_file, worst_error

WIDTH, GRID = 8, 3
IDS = [[4, 0], [2, 4], [1, 3]]
aten = torch.ops.aten

Read = Callable[[Tensor], Tensor]


class Tokens(nn.Module):
    """A class token before those of nine patches; attention, then layers of each token alone."""

    def __init__(self, read: Read) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH)
        )
        self.read = read
        self.fc = nn.LazyLinear(NUM_CLASSES)
        with torch.no_grad():
            self(EXAMPLE)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + self.scale * self.mlp(tokens)
        return self.fc(self.read(tokens))  # type: ignore[no-any-return]


READS: dict[str, tuple[bool, Read]] = {
    "class token": (True, lambda tokens: tokens[:, 0]),
    "last token": (True, lambda tokens: tokens[:, -1]),
    "behind other operators": (True, lambda tokens: tokens.tanh()[:, 0].exp()),
    "of the first tokens": (True, lambda tokens: tokens[:, :1].tanh()[:, 0]),
    "of the others": (True, lambda tokens: (tokens[:, 1:-1] * 2)[:, 3]),
    "last of some": (False, lambda tokens: tokens[:, 1:][:, -1]),
    "of every second": (False, lambda tokens: tokens[:, ::2][:, 1]),
    "of tokens beside each other": (False, lambda tokens: (tokens[:, 1:] * tokens[:, :-1])[:, 0]),
    "mean": (False, lambda tokens: tokens.mean(1)),
    "two tokens": (False, lambda tokens: tokens[:, 0] + tokens[:, 1]),
    "token and mean": (False, lambda tokens: torch.cat([tokens[:, 0], tokens.mean(1)], 1)),
    "one channel of each": (False, lambda tokens: tokens[..., 0]),
    "behind what mixes tokens": (False, lambda tokens: tokens.cumsum(1)[:, 0]),
}


# Where the way back goes through a token, and where it does not.
TOLD_APART = ("last token", "of the others", "mean", "two tokens")


def tail_of(model: nn.Module, layer: str) -> fx.GraphModule:
    traced = trace(model, (EXAMPLE,), dynamic_size=False)
    node = find_activation(traced, layer)
    return cut(traced.graph, at=[node], kept=[]).tail


@pytest.mark.parametrize("name", READS)
def test_scores_by_way_of_one_token(name: str) -> None:
    possible, read = READS[name]
    model = build(lambda: Tokens(read))
    tail = tail_of(model, "attention")
    module = narrow(tail, 0)
    assert (module is not None) is possible
    if module is None:
        return
    assert len(outputs_of(tail)) == len(outputs_of(module)) - 1
    linear = module.graph.find_nodes(op="call_function", target=aten.linear.default)
    assert len(linear) == 2 * 3  # those of all tokens, and the same of one
    values = [torch.randn(3, 1 + GRID**2, WIDTH) for _ in module.graph.find_nodes(op="placeholder")]
    scores, again = module(*values)
    assert torch.equal(scores, tail(*values)[0])
    torch.testing.assert_close(again, scores)


@pytest.mark.parametrize(
    "name",
    [name if name in TOLD_APART else pytest.param(name, marks=pytest.mark.slow) for name in READS],
)
def test_maps(name: str) -> None:
    model = build(lambda: Tokens(READS[name][1]))
    image = images(3, 3, 24, 24)
    given = explain(model, EXAMPLE, layer="norm")(image, torch.tensor(IDS))
    expected = by_hand(model, ["norm"], image)
    torch.testing.assert_close(given.scores, model(image), rtol=1e-5, atol=1e-6)
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_values_whose_gradients_are_asked_for_are_not_gone_round() -> None:
    """Of the second layer the class token alone leads to the scores, so its own map is empty."""
    model = build(lambda: Tokens(READS["class token"][1]))
    image, layers = images(3, 3, 24, 24), ["norm", "mlp.0"]
    given = explain(model, EXAMPLE, layer=layers)(image, torch.tensor(IDS))
    assert worst_error(given.saliency_map.numpy(), by_hand(model, layers, image)) < TOLERANCE


def test_the_way_back_has_rows_of_one_token() -> None:
    model = build(lambda: Tokens(READS["class token"][1]))
    explained = explain(model, EXAMPLE, layer="norm")
    assert isinstance(explained.body, GradientBody)
    products = explained.body.backward_pass.graph.find_nodes(
        op="call_function", target=aten.mm.default
    )
    by_width = {node.meta["val"].shape[1]: node.meta["val"].shape[0] for node in products}
    # The hidden layer is 12 wide: a row for each image. Attention has one for each token of it.
    assert str(by_width[12]) == str(products[0].meta["val"].shape[0])
    assert any(str(node.meta["val"].shape[0]).startswith("10*") for node in products)


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
def test_files(suffix: str, tmp_path: Path) -> None:
    model = build(lambda: Tokens(READS["class token"][1]))
    explained = explain(model, EXAMPLE, layer="norm")
    path = tmp_path / f"model{suffix}"
    save(explained, path)
    for batch in (1, 3):
        image = images(5 + batch, batch, 24, 24)
        scores, _, maps = run_any_file(path, image, torch.tensor(IDS[:batch])).values()
        assert worst_error(scores, model(image).detach().numpy()) < TOLERANCE
        assert worst_error(maps, by_hand(model, ["norm"], image)) < TOLERANCE


def by_hand(model: nn.Module, layers: list[str], image: Tensor) -> np.ndarray:
    def grid(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (GRID, GRID))

    ids = IDS[: len(image)]
    return maps_by_hand(model, layers, [image], ids, lambda z, c: z[0, c], reshape=grid)
