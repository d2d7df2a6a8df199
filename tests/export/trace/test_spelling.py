"""One operator is traced by itself, and what it does takes its place."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from camcore.export.trace.spelling import spell_out_node
from camcore.export.write.nodes import calls

aten = torch.ops.aten


@pytest.mark.parametrize("composite", [True, False])
def test_what_operators_are_made_of(composite: bool) -> None:
    """A product of arrays stays one, or becomes a product of matrices."""
    module = make_fx(lambda x: aten.matmul(x, x.mT), pre_dispatch=True, tracing_mode="fake")(
        torch.ones(3, 4)
    )
    (product,) = calls(module.graph, aten.matmul.default)
    made = spell_out_node(module.graph, product, {}, composite=composite)
    module.recompile()
    assert set(made) <= set(module.graph.nodes)
    assert [node.target for node in made if node.target is not aten.t.default][-1:] == [
        aten.matmul.default if composite else aten.mm.default
    ]
    assert len(calls(module.graph, aten.matmul.default)) == composite
    assert len(calls(module.graph, aten.mm.default)) == (not composite)
    x = torch.randn(3, 4)
    torch.testing.assert_close(module(x), x @ x.mT)


def test_each_of_several_results() -> None:
    module = make_fx(lambda x: x.chunk(2, 1)[1] * 2, pre_dispatch=True, tracing_mode="fake")(
        torch.ones(3, 4)
    )
    (chunk,) = calls(module.graph, aten.chunk.default)
    spell_out_node(module.graph, chunk, {}, composite=False)
    module.recompile()
    module.graph.lint()
    assert not calls(module.graph, aten.chunk.default)
    x = torch.randn(3, 4)
    torch.testing.assert_close(module(x), x[:, 2:] * 2)
