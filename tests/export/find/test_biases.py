"""The biases that FullGrad tells a score apart into."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.export.find.biases import Bias, find_biases
from camcore.export.trace.graphs import module_of
from camcore.export.trace.trace import trace
from tests.export.models import EXAMPLE, SmallNet, build


class Added(nn.Module):
    """Channels are added to by all that can, and by what does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.rand(1, 3, 1, 1))
        self.shift = nn.Parameter(torch.rand(8, 1, 1))
        self.one = nn.Parameter(torch.rand(1, 1, 1))
        self.position = nn.Parameter(torch.rand(1, 8, 24, 24))
        self.first, self.twice = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.plain = nn.Conv2d(8, 8, 1, bias=False)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x - self.average))
        x = torch.tanh(self.twice(x)) + self.position
        self.twice(x)  # which leads nowhere
        x = torch.tanh(self.plain(x + torch.tanh(self.twice(x)))) + 3.0
        x = F.conv2d(x, self.twice.weight, 2 * self.twice.bias, padding=1)
        x = torch.add(input=x, other=self.one, alpha=2)
        x = (x + self.shift).tanh() + (3 * self.shift).expand_as(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def found(model: nn.Module) -> list[Bias]:
    return find_biases(trace(model, EXAMPLE))


def test_convolutions_and_batch_norms() -> None:
    names = [module_of(bias.node) for bias in found(build(SmallNet))]
    # `block.conv1` has no bias, and the linear layer's lies behind the pooling.
    assert names == ["stem.0", "stem.1", "block.norm1", "block.conv2", "top.0"]


def test_a_bias_is_what_the_layer_makes_of_zero() -> None:
    model = build(SmallNet)
    for node, added in found(model):
        layer = model.get_submodule(module_of(node))
        channels = layer.num_features if isinstance(layer, nn.BatchNorm2d) else layer.in_channels
        made = layer(torch.zeros(1, int(channels), 5, 5))[0, :, 2, 2]
        assert made.abs().max() > 0.01
        torch.testing.assert_close(added, made.detach())
        assert not added.requires_grad


def test_whatever_adds_to_channels_at_every_call_that_counts() -> None:
    model = build(Added)
    with torch.no_grad():
        expected = [
            -model.average.flatten(),
            model.first.bias,
            model.twice.bias,
            model.twice.bias,
            2 * model.twice.bias,
            2 * model.one.flatten().expand(8),
            model.shift.flatten(),
            3 * model.shift.flatten(),
        ]
    given = [bias.added for bias in found(model)]
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_biases_and_scores_add_up() -> None:
    """Without nonlinearities the score is what the image and all biases contribute."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, 11)
    )
    model.append(nn.Flatten())
    nn.init.normal_(model[1].running_mean)
    model.eval()
    biases = found(model)
    assert len(biases) == 4
    image = torch.rand(1, 3, 24, 24, requires_grad=True)
    values: list[Tensor] = []
    for layer in model[:4]:
        values.append(layer(values[-1] if values else image))
    score = model[4](values[-1])[0, 2]
    at_image, *gradients = torch.autograd.grad(score, [image, *values])
    terms = [(g * b.added[:, None, None]).sum() for g, b in zip(gradients, biases, strict=True)]
    torch.testing.assert_close((at_image * image).sum() + sum(terms), score)


def test_a_batch_norm_without_statistics_or_weights() -> None:
    plain = nn.Sequential(
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
    plain[0].running_mean += 2
    (bias,) = found(plain)
    assert module_of(bias.node) == "0"
    torch.testing.assert_close(bias.added, plain[0](torch.zeros(1, 3, 1, 1)).flatten())
