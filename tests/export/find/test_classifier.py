"""The weights of a linear layer behind global average pooling, and what is none."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export.cut import cut
from camcore.export.find.classifier import pooled_linear_weight
from camcore.export.find.modules import find_activation
from camcore.export.trace.trace import trace
from tests.export.models import Head, Mean, build


def weight(*head: nn.Module, free: bool = False) -> tuple[Tensor, nn.Module]:
    model = build(lambda: Head(nn.Sequential(*head)))
    traced = trace(model, torch.zeros(1, 3, 24, 24), dynamic_size=free)
    activation = find_activation(traced, "conv")
    parts = cut(traced.graph, at=[activation], kept=[activation])
    return parts.tail.get_buffer(pooled_linear_weight(parts.tail, "conv")), model


@pytest.mark.parametrize(
    "pooling",
    [
        (nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Dropout()),
        (Mean((2, 3)),),
        (Mean((-1, -2)),),
        (Mean((2, 3), keepdim=True), nn.Flatten(1)),
        (nn.Flatten(2), Mean((2,))),
        (nn.Flatten(2), Mean((-1,), keepdim=True), nn.Flatten(1)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_weight_of_the_linear_layer(pooling: tuple[nn.Module, ...], bias: bool) -> None:
    linear = nn.Linear(6, 5, bias=bias)
    found, model = weight(*pooling, linear, free=bias)
    assert any(found.data_ptr() == tensor.data_ptr() for tensor in model.parameters())
    assert torch.equal(found, linear.weight)


@pytest.mark.parametrize(
    "head",
    [
        (nn.ReLU(), Mean((2, 3)), nn.Linear(6, 5)),
        (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
        (Mean((2, 3)), nn.Linear(6, 4), nn.Linear(4, 5)),
        (Mean((2, 3)), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5)),
        (Mean((2, 3)), nn.Linear(6, 5), nn.Softmax(1)),
        (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)),
        (nn.Conv2d(6, 5, 1), Mean((2, 3))),
        (nn.Flatten(2), Mean((1,)), nn.Linear(22 * 22, 5)),
        (nn.Flatten(2), nn.Unflatten(1, (3, 2)), nn.Flatten(2), Mean((2,)), nn.Linear(3, 5)),
        (nn.Flatten(1), nn.Unflatten(1, (12, -1)), Mean((2,)), nn.Linear(12, 5)),
        (Mean((2, 3)), nn.BatchNorm1d(6), nn.Linear(6, 5)),
    ],
)
def test_anything_else_is_refused(head: tuple[nn.Module, ...]) -> None:
    with pytest.raises(
        ExportError, match=r"cam needs global average pooling and one linear layer.*'conv'"
    ):
        weight(*head)


def test_a_mean_over_one_axis_is_no_global_pooling() -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.mean(3).amax(2)

    with pytest.raises(ExportError, match="cam needs"):
        weight(Rows(), nn.Linear(6, 5))
