"""The traced gradient is what hooks and autograd give, for any number of classes and images."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.errors import ExportError
from camcore.export.cut import cut
from camcore.export.find.modules import find_activation
from camcore.export.gradient import rules
from camcore.export.gradient.gradient import trace_gradient
from camcore.export.trace.trace import Trace, trace
from tests.export.models import (
    EXAMPLE,
    NUM_CLASSES,
    Borders,
    Branches,
    Classifier,
    GridSampler,
    SmallNet,
    build,
    images,
)
from tests.export.oracle import first_fast
from tests.export.tracing import copied


@cache
def trace_once(model: nn.Module, dynamic_size: bool | None) -> Trace:
    return trace(model, EXAMPLE, dynamic_size=dynamic_size)


def traced(model: nn.Module, layer: str, dynamic_size: bool | None = None) -> tuple[Any, Any]:
    found = copied(trace_once(model, dynamic_size))
    activation = find_activation(found, layer)
    parts = cut(found.graph, at=[activation], kept=[activation])
    return parts, trace_gradient(parts.tail, [activation.meta["val"]], parts.crossing)


def gradients(parts: Any, gradient: Any, image: Tensor, classes: Tensor) -> Tensor:
    """(B, K, C, *S) for classes (B, K)."""
    activations, *crossing = parts.head(image)
    _, *saved = gradient.forward(activations, *crossing)
    batch, k = classes.shape
    repeated = gradient.repeat_saved(saved, k)
    (found,) = gradient.backward(classes.t().reshape(-1), *repeated)
    return found.reshape(k, batch, *activations.shape[1:]).transpose(0, 1)  # type: ignore[no-any-return]


def by_hooks(model: nn.Module, layer: str, image: Tensor, classes: Tensor) -> Tensor:
    """One image and one class at a time, with respect to a zero added to the layer's output."""
    deltas: list[Tensor] = []

    def perturb(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        deltas.append(torch.zeros_like(output, requires_grad=True))
        return output + deltas[-1]

    handle = model.get_submodule(layer).register_forward_hook(perturb)
    rows = []
    for one, ids in zip(image, classes.tolist(), strict=True):
        scores = model(one[None])
        rows.append(
            [torch.autograd.grad(scores[0, c], deltas[-1], retain_graph=True)[0][0] for c in ids]
        )
    handle.remove()
    return torch.stack([torch.stack(row) for row in rows])


CLASSES = {1: [[3]], 2: [[0, 4], [2, 2]], 3: [[4, 1, 0]] * 3}


@pytest.mark.parametrize("layer", ["stem", "block.conv1", "block.conv2", "block", "top"])
def test_gradients(layer: str, small_net: nn.Module) -> None:
    parts, gradient = traced(small_net, layer)
    for batch, size in ((1, (24, 24)), (2, (17, 40)), (3, (64, 9))):
        image, classes = images(batch, batch, *size), torch.tensor(CLASSES[batch])
        expected = by_hooks(small_net, layer, image, classes)
        given = gradients(parts, gradient, image, classes)
        assert expected.abs().max() > 1e-5
        torch.testing.assert_close(
            given, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


class Attention(nn.Module):
    """Fused attention, whose backward pass has no rule, must be traced in its plain form."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = self.norm(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])
        return self.fc(nn.functional.gelu(tokens)[:, 0])  # type: ignore[no-any-return]


class PooledTokens(nn.Module):
    """Pools its tokens to one as Swin of transformers does, which PyTorch restrides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).tanh().flatten(2)
        return self.fc(nn.functional.adaptive_avg_pool1d(tokens, 1).flatten(1))  # type: ignore[no-any-return]


class Wide(nn.Module):
    """Ends in no linear layer: the seed meets more than a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv = nn.Conv2d(8, NUM_CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.stem(x).relu()).mean((2, 3)).log_softmax(1)


class Hidden(nn.Module):
    """Indexing from behind, steps, a hidden layer and activations of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.hidden = nn.Linear(8, 12)
        self.fc = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.stem(x))
        x = x + x[:, :, -1:] * x[:, -1:] + x[:, :, -1, None]
        x = nn.functional.hardswish(x[:, :, -7::2]) + x[:, :, -9:-5].flip(2)
        return self.fc(nn.functional.relu6(self.hidden(x.mean((2, 3)))))  # type: ignore[no-any-return]


class Written(nn.Module):
    """Writes into slices of its values, as MViTv2 adds the positions to its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh()
        y = 2 * x
        y[:, 3:, 2:-1] += x[:, 1:6, 3:]
        y[:, 0] = x[:, 1] * x[:, 2]
        y[:, 7, 4:] = 1.0
        return self.fc(y.square().mean((2, 3)))  # type: ignore[no-any-return]


class Root(nn.Module):
    """The root of what a ReLU has set to zero, whose gradient is infinite there."""

    def __init__(self, root: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.root = root
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc((self.root(x.relu()) - self.root(F.relu6(-x))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("root", [torch.sqrt, lambda x: x**0.3])
def test_an_infinite_gradient_stops_at_a_relu(root: Callable[[Tensor], Tensor]) -> None:
    model = build(partial(Root, root))
    parts, gradient = traced(model, "stem")
    image, classes = images(2, 3, 20, 18), torch.tensor(CLASSES[3])
    expected = by_hooks(model, "stem", image, classes)
    assert expected.isfinite().all()
    # Near zero the gradient is steep, and moves with the rounding of the activation.
    torch.testing.assert_close(
        gradients(parts, gradient, image, classes), expected, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    "make", first_fast([Attention, PooledTokens, Wide, Hidden, Written, Branches, Borders], 3)
)
def test_other_tails(make: type[nn.Module]) -> None:
    model = build(make)
    # The rows of tokens are as many as the image has patches, of a size that is not free.
    fixed = make is Attention
    parts, gradient = traced(model, "stem", dynamic_size=not fixed)
    for graph in (gradient.forward, gradient.backward):
        assert "as_strided" not in str(graph)  # no exporter knows what to do with it
    for batch, size in ((2, (24, 24)), (3, (24, 24) if fixed else (17, 40))):
        image, classes = images(batch, batch, *size), torch.tensor(CLASSES[batch])
        expected = by_hooks(model, "stem", image, classes)
        given = gradients(parts, gradient, image, classes)
        torch.testing.assert_close(
            given, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


def test_the_forward_pass_is_the_tail(small_net: nn.Module) -> None:
    parts, gradient = traced(small_net, "block.conv2")
    image = images(1, 3, 17, 40)
    torch.testing.assert_close(gradient.forward(*parts.head(image))[0], small_net(image))


def test_no_backward_operator_and_no_graph_is_left(small_net: nn.Module) -> None:
    _, gradient = traced(small_net, "stem")
    for graph in (gradient.forward, gradient.backward):
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert len(targets) > 5
        assert not [target for target in targets if "backward" in target or "camcore" in target]


def test_weights_stay_the_model_s_own(small_net: nn.Module) -> None:
    """Both passes use them; a constant that tracing made would be a copy in the file."""
    own = {tensor.data_ptr() for tensor in small_net.state_dict().values()}
    _, gradient = traced(small_net, "stem")
    for graph in (gradient.forward, gradient.backward):
        large = [tensor for tensor in graph.state_dict().values() if tensor.numel() > 1]
        assert large
        assert {tensor.data_ptr() for tensor in large} <= own


def test_the_last_weight_is_not_read_whole(small_net: nn.Module) -> None:
    """One row a class, in place of a product with a one-hot seed."""
    _, gradient = traced(small_net, "top")
    targets = {str(node.target) for node in gradient.backward.graph.nodes}
    assert "aten.index_select.default" in targets
    assert "aten.mm.default" not in targets


@pytest.mark.parametrize("dynamic_size", [None, False])
def test_an_operator_without_a_rule_is_named_with_its_module(dynamic_size: bool) -> None:
    with pytest.raises(
        ExportError, match=r"no gradient rule for .*grid_sampler_2d_backward.* used by warp"
    ):
        traced(build(GridSampler), "conv", dynamic_size=dynamic_size)


def test_an_operator_right_behind_the_layer_is_named_with_its_module() -> None:
    class Direct(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grid = torch.zeros(x.shape[0], 5, 5, 2)
            return nn.functional.grid_sample(x, grid, mode="bicubic", align_corners=False)

    features = nn.Sequential(nn.Conv2d(3, 6, 3), Direct())
    with pytest.raises(ExportError, match=r"grid_sampler_2d_backward.* used by features\.1\."):
        traced(build(lambda: Classifier(features, 6)), "features.0")


def test_a_layer_behind_the_operator_is_fine() -> None:
    model = build(GridSampler)
    parts, gradient = traced(model, "warp")
    image, classes = images(1, 2, 24, 24), torch.tensor([[1], [3]])
    expected = by_hooks(model, "warp", image, classes)
    torch.testing.assert_close(gradients(parts, gradient, image, classes), expected)


def test_a_tail_that_cannot_be_differentiated() -> None:
    class Hard(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0).float()

    model = build(lambda: Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), Hard()), 4))
    with pytest.raises(ExportError, match="gradient"):
        traced(model, "features.0")


def test_a_value_of_the_example_frozen_into_the_graph_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As would happen if a rule kept a value that tracing does not follow."""
    operator = torch.ops.aten.native_batch_norm_backward.default

    def freeze(grad: Tensor, *rest: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            frozen = torch.rand(8, 1, 1)
        return grad * frozen, None, None

    monkeypatch.setitem(rules.RULES, operator, freeze)
    with pytest.raises(ExportError, match=r"shape \(8, 1, 1\) would be frozen"):
        traced(build(SmallNet), "stem.0")
