"""Attention and batch norms that are watched while a model runs eagerly."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.errors import ExportError
from camcore.export.prove.watch import AttentionWatch, BiasWatch, SoundBatchNorms

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Attend(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        q = k = v = x.unflatten(2, (2, 3)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).flatten(2)


class Attended(nn.Module):
    """Attention, then a failure inside another one."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mha(x, x, x, need_weights=False)[0]
        self.mha(y[..., :4], y, y)
        return y


def fresh(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules).eval()


@pytest.mark.parametrize("make", [lambda: Attend(), lambda: Attend(scale=2.0)])
def test_the_zero_has_the_gradient_of_the_weights(make: Any) -> None:
    """A step along it changes what comes out as the gradient says."""
    model = fresh(make(), nn.Identity())
    with AttentionWatch(model, ["0"], [5]) as watch:
        out = model(TOKENS)
    (delta,) = watch.deltas()
    assert delta.shape == (2, 2, 5, 5)
    torch.testing.assert_close(out, model(TOKENS))
    (gradient,) = torch.autograd.grad((out**2).sum(), delta)
    scale = model[0].options.get("scale", 3**-0.5)
    q = TOKENS.double().unflatten(2, (2, 3)).transpose(1, 2)
    weights = (scale * q @ q.transpose(-2, -1)).softmax(-1)
    step = torch.zeros_like(weights)
    step[0, 1, 2, 3] = 1e-4
    up, down = (((weights + sign * step) @ q).square().sum() for sign in (1, -1))
    torch.testing.assert_close(gradient[0, 1, 2, 3].double(), (up - down) / 2e-4, rtol=1e-4, atol=0)


def test_a_layer_that_attends_twice_is_noted_twice() -> None:
    shared = Attend()
    model = fresh(shared, shared)
    with AttentionWatch(model, ["0", "0"], [5, 5]) as watch:
        out = model(TOKENS)
    first, second = watch.deltas()
    gradients = torch.autograd.grad(out.sum(), (first, second))
    assert first is not second
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_what_is_not_asked_for_stays_as_it_is() -> None:
    model = fresh(Attend(), Attend(is_causal=True), Attend())
    with AttentionWatch(model, ["2"], [5]) as watch:
        out = model(TOKENS)
    assert len(watch.deltas()) == 1
    torch.testing.assert_close(out, model(TOKENS))


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (fresh(Attend(is_causal=True)), ["0"]),
        (fresh(nn.Identity()), ["0"]),
        (fresh(Attend()), ["0", "0"]),
    ],
)
def test_another_number_than_in_the_graph_is_an_error(model: nn.Module, layers: list[str]) -> None:
    with AttentionWatch(model, layers, [5] * len(layers)) as watch:
        model(TOKENS)
    with pytest.raises(ExportError, match=r"0 attends . times in the traced graph and . times"):
        watch.deltas()


def test_nothing_stays_behind() -> None:
    model = fresh(Attended())
    before = F.scaled_dot_product_attention, F.softmax
    watch = AttentionWatch(model, ["0"], [5])
    with pytest.raises(AssertionError, match="embedding"), watch:
        model(TOKENS)
    assert len(watch.deltas()) == 1
    assert before == (F.scaled_dot_product_attention, F.softmax)
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks
    F.scaled_dot_product_attention(TOKENS, TOKENS, TOKENS)
    assert len(watch.deltas()) == 1


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("call", [F.batch_norm, torch.batch_norm])
def test_batch_norms_of_a_gradient_that_is_a_transposed_view(call: Any, batch: int) -> None:
    x = torch.randn(batch, 6, 4, 4, requires_grad=True)
    mean, variance, weight, bias = torch.randn(6), torch.rand(6) + 0.5, torch.randn(6), None
    tail = (False, 0.1, 1e-5) if call is F.batch_norm else (False, 0.1, 1e-5, False)
    given = (
        (mean, variance, weight, bias) if call is F.batch_norm else (weight, bias, mean, variance)
    )
    with SoundBatchNorms():
        y = call(x, *given, *tail)
    G = torch.randn(batch, 16, 6).transpose(1, 2).unflatten(2, (4, 4))
    (found,) = torch.autograd.grad(y, x, G)
    scale = weight * torch.rsqrt(variance + 1e-5)
    torch.testing.assert_close(found, G * scale[:, None, None])


class Adds(nn.Module):
    """Channels are added to by a sum, a convolution twice, a batch norm, and by what counts not."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.late = nn.Parameter(torch.rand(4, 1, 1)), nn.Parameter(torch.rand(4, 1, 1))
        self.conv, self.norm = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        self.conv(x)
        x = self.norm(torch.tanh(self.conv(torch.sub(input=self.shift, other=x))))
        x = x + self.late.expand_as(x)
        return (x + x.mean((2, 3), keepdim=True) + 2.0) * self.conv(other)


def test_biases_behind_the_image_and_before_the_scores() -> None:
    model = fresh(Adds())[0]
    image, other = torch.rand(2, 4, 5, 6), torch.rand(2, 4, 5, 6)
    leaf = torch.zeros_like(image, requires_grad=True)
    with BiasWatch(leaf) as watch:
        out = model(image + leaf, other)
    torch.testing.assert_close(out, model(image, other))
    added, zeros = zip(*watch.reaching(out), strict=True)
    of_norm, late = model.norm(torch.zeros(1, 4, 1, 1)).flatten(), model.late.flatten()
    biases = (model.shift.flatten(), model.conv.bias, of_norm, late)
    for one, expected in zip(added, biases, strict=True):
        torch.testing.assert_close(one, expected.detach())
    # A step of the bias changes what comes out as the gradients at all points say.
    (gradient,) = torch.autograd.grad(out.sum(), zeros[0])
    with torch.no_grad():
        model.shift[2] += 1e-3
        moved = model(image, other).sum()
    step = gradient[:, 2].sum() * 1e-3
    torch.testing.assert_close(moved - out.sum().detach(), step, rtol=0.05, atol=1e-4)


def test_a_bias_of_the_pooled_map_of_one_image() -> None:
    """The map is of the constant's size, and is not taken for it."""
    image, shift = torch.rand(1, 4, 5, 6), torch.rand(1, 4, 1, 1)
    leaf = torch.zeros_like(image, requires_grad=True)
    with BiasWatch(leaf) as watch:
        out = (image + leaf).mean((2, 3), keepdim=True) + shift
    ((added, _),) = watch.reaching(out)
    torch.testing.assert_close(added, shift.flatten())
