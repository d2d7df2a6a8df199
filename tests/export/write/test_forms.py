"""Operators that exporters take well in one form only."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from camcore.export.write.forms import FREE_SIZE_RULES, ONNX_RULES
from tests.export.rule_cases import (
    ATOL,
    Shape,
    aten,
    operators,
    random,
)


def traced_for_onnx(
    function: Callable[..., Tensor], *inputs: Tensor, mode: str = "symbolic"
) -> fx.GraphModule:
    traced: fx.GraphModule = make_fx(
        function, decomposition_table=ONNX_RULES, tracing_mode=mode, pre_dispatch=True
    )(*inputs)
    traced.graph.eliminate_dead_code()
    return traced


@pytest.mark.parametrize("lead", [(6,), (2, 3, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize(
    ("mask_lead", "options"),
    [(None, {}), (None, {"scale": 0.3}), (None, {"is_causal": True}), (0, {}), (1, {"scale": 0.3})],
)
def test_attention_is_folded(lead: Shape, mask_lead: int | None, options: dict[str, Any]) -> None:
    """A mask has no leading axes, or as many as the others and the same for all heads."""
    inputs = [random(*lead, *size, seed=n) for n, size in enumerate([(5, 8), (7, 8), (7, 6)])]
    if mask_lead is not None:
        inputs.append(random(*[*lead[:-1], 1][: mask_lead * len(lead)], 5, 7, seed=3))

    def attend(*inputs: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*inputs, **options)

    graph = traced_for_onnx(attend, *inputs)
    (attention,) = graph.graph.find_nodes(
        op="call_function", target=aten.scaled_dot_product_attention.default
    )
    assert [argument.meta["val"].ndim for argument in attention.args[:3]] == [4, 4, 4]
    torch.testing.assert_close(graph(*inputs), attend(*inputs), rtol=1e-9, atol=ATOL)


CUBIC = aten.upsample_bicubic2d.vec


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize(
    "target", [((13, 5), None), ((6, 9), None), (None, (2.0, 3.0)), (None, (0.6, 1.5))]
)
def test_cubic_interpolation_becomes_products(target: Any, corners: bool) -> None:
    """What is interpolated is an identity for each axis, not the image."""
    size, factors = target
    x = random(2, 3, 6, 7)
    graph = traced_for_onnx(lambda x: CUBIC(x, size, corners, factors), x, mode="real")
    calls = graph.graph.find_nodes(op="call_function", target=CUBIC)
    assert [tuple(call.args[0].meta["val"].shape) for call in calls] == [(1, 1, 6, 6), (1, 1, 7, 7)]
    torch.testing.assert_close(graph(x), CUBIC(x, size, corners, factors), rtol=1e-9, atol=ATOL)


@pytest.mark.parametrize(("channels", "mode"), [(3, "symbolic"), (1, "real")])
def test_cubic_interpolation_stands_aside(channels: int, mode: str) -> None:
    """Of a free size, whose matrices could not wait, and of what is as small as these."""
    x = random(2, channels, 6, 7)
    graph = traced_for_onnx(lambda x: CUBIC(x, (13, 5), False, None), x, mode=mode)
    assert operators(graph) == {CUBIC}


@pytest.mark.parametrize(
    ("function", "size", "count", "others"),
    [
        (F.adaptive_avg_pool1d, (9,), 4, [(4,), (17,), (3,)]),
        (F.adaptive_avg_pool2d, (9, 11), (7, 3), [(7, 3), (14, 12), (2, 30)]),
        (F.adaptive_avg_pool3d, (5, 7, 6), (2, 3, 4), [(4, 9, 8), (2, 3, 4)]),
    ],
)
def test_forward_rule_of_adaptive_average_pools(
    function: Any, size: Shape, count: Any, others: list[Shape]
) -> None:
    graph = make_fx(
        lambda x: function(x, count), decomposition_table=FREE_SIZE_RULES, tracing_mode="symbolic"
    )(random(2, 4, *size))
    assert not any("adaptive" in str(target) for target in operators(graph))
    for seed, other in enumerate((size, *others)):
        x = random(3, 4, *other, seed=seed)
        torch.testing.assert_close(graph(x), function(x, count), rtol=1e-9, atol=ATOL)


@pytest.mark.parametrize("count", [1, 3])
def test_forward_rule_stands_aside(count: int) -> None:
    """Global pools, and pools of a known size, stay the operators that they are."""
    mode = "symbolic" if count == 1 else "real"
    graph = make_fx(
        lambda x: aten._adaptive_avg_pool2d(x, [count, count]),
        decomposition_table=FREE_SIZE_RULES,
        tracing_mode=mode,
    )(random(2, 4, 6, 6))
    assert operators(graph) == {aten._adaptive_avg_pool2d.default}
