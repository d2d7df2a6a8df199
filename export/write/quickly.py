"""Quickly: what torch.onnx does anew for every model, although it is known, is done once.

It fills its registry of translations, and runs the whole graph once more with symbolic sizes to see
where types are promoted, which the types of the graph's values tell. That is more than half of its
time. Both are its own functions; where a version of PyTorch has them under other names, they stay
what they are, and an export takes longer.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

from torch import fx


@contextmanager
def quickly() -> Iterator[None]:
    """While it lasts, torch.onnx does not do again what is known."""
    with ExitStack() as stack:
        for replaced in (_registry, _promotion):
            try:
                owner, name, better = replaced()
            except (ImportError, AttributeError):
                continue
            stack.enter_context(patch.object(owner, name, better))
        yield


@cache
def _registry() -> tuple[Any, str, Callable[..., Any]]:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    # An export looks translations up in it, and adds those alone that a caller gives: here none.
    return ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib))


@cache
def _promotion() -> tuple[Any, str, Callable[..., Any]]:
    from torch.onnx._internal.exporter import _fx_passes
    from torch.onnx._internal.fx.passes import type_promotion

    rules = type_promotion.TypePromotionTable()

    class Known(type_promotion._TypePromotionInterpreter):
        """Knows a node's value by the trace: promotion changes what goes in, not what comes out."""

        def run_node(self, n: fx.Node) -> Any:
            rule = type_promotion.get_type_promotion_rule(n, self.type_promotion_table)
            if rule is not None:
                with self._set_current_node(n):
                    self._maybe_promote_node(n, rule)
            return n.meta["val"] if "val" in n.meta else fx.Interpreter.run_node(self, n)

    def promote(graph_module: fx.GraphModule) -> None:
        module: Any
        for module in graph_module.modules():
            inserted = type_promotion.InsertTypePromotion(module, rules)
            inserted.interpreter = Known(module, rules)
            inserted.run()

    assert callable(_fx_passes.insert_type_promotion_nodes)
    return _fx_passes, "insert_type_promotion_nodes", promote
