"""The biases that FullGrad tells a score apart into."""

import torch
from torch import nn

from camcore.export.find.biases import find_biases
from tests.export.models import SmallNet, build


def test_convolutions_and_batch_norms_by_name() -> None:
    model = build(SmallNet)
    # `block.conv1` has no bias, and the linear layer's lies behind the pooling.
    names = ["stem.0", "stem.1", "block.norm1", "block.conv2", "top.0"]
    assert list(find_biases(model)) == names


def test_a_bias_is_what_the_layer_makes_of_zero() -> None:
    model = build(SmallNet)
    for name, bias in find_biases(model).items():
        layer = model.get_submodule(name)
        channels = layer.num_features if isinstance(layer, nn.BatchNorm2d) else layer.in_channels
        made = layer(torch.zeros(1, int(channels), 5, 5))[0, :, 2, 2]
        assert made.abs().max() > 0.01
        torch.testing.assert_close(bias, made.detach())
        assert not bias.requires_grad


def test_a_batch_norm_without_statistics_or_weights() -> None:
    plain = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)
    )
    plain[0].running_mean += 2
    found = find_biases(plain.eval())
    assert list(found) == ["0"]
    torch.testing.assert_close(found["0"], plain[0](torch.zeros(1, 3, 1, 1)).flatten())
