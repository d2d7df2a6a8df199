"""Operators that become what a rule says that they do."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from camcore.export.write.nodes import calls
from camcore.export.write.spell_out import spell_out

aten = torch.ops.aten


def silu(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def silu_of_pairs(x: Tensor) -> Any:
    """A rule that stands aside where the last axis has an odd number of points."""
    return silu(x) if x.shape[-1] % 2 == 0 else NotImplemented


def traced(*shape: int) -> fx.GraphModule:
    """SiLU twice, and a GELU that no rule is about."""
    module: fx.GraphModule = make_fx(
        lambda x: aten.silu(aten.gelu(aten.silu(x))), tracing_mode="symbolic"
    )(torch.ones(shape))
    return module


def test_every_operator_with_a_rule_and_no_other() -> None:
    module = traced(3, 4)
    spell_out(module.graph, {aten.silu.default: silu})
    module.recompile()
    module.graph.lint()
    assert not calls(module.graph, aten.silu.default)
    assert len(calls(module.graph, aten.sigmoid.default)) == 2
    assert len(calls(module.graph, aten.gelu.default)) == 1
    for shape in ((3, 4), (2, 6)):  # traced at one size, good for others
        x = torch.randn(shape)
        expected = aten.silu(aten.gelu(aten.silu(x)))
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("width", [4, 5])
def test_a_rule_may_leave_an_operator_alone(width: int) -> None:
    module = traced(3, width)
    spell_out(module.graph, {aten.silu.default: silu_of_pairs})
    module.recompile()
    assert len(calls(module.graph, aten.silu.default)) == (2 if width == 5 else 0)
    x = torch.randn(3, width)
    torch.testing.assert_close(module(x), aten.silu(aten.gelu(aten.silu(x))))
