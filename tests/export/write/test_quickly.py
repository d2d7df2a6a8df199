"""torch.onnx writes the same with what is known as it does without, only later."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.onnx._internal.exporter import _fx_passes
from torch.onnx._internal.exporter._registration import ONNXRegistry

from camcore.export.write import quickly as module
from camcore.export.write.quickly import quickly


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "types that are promoted": lambda x: (x > 0) * x + torch.arange(4) * (x.sum() > 1),
    "roots of integers": lambda x: torch.arange(x.shape[0]).sqrt()[:, None] / 2 + x.long() ** 0.5,
    "nothing to promote": lambda x: x.relu().softmax(1) * 2,
}


def written(function: Callable[[Tensor], Tensor], way: Any) -> onnx.ModelProto:
    free = ({0: Dim.DYNAMIC},)
    program = torch.export.export(Function(function), (torch.ones(3, 4),), dynamic_shapes=free)
    with way:
        made = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=18)
    assert made is not None
    return made.model_proto


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_graph(name: str) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    quick, plain = (written(FUNCTIONS[name], way) for way in (quickly(), nullcontext()))
    described = [
        [(node.op_type, list(node.input), list(node.output)) for node in each.graph.node]
        for each in (quick, plain)
    ]
    assert described[0] == described[1]
    assert quick.graph.output == plain.graph.output
    assert ("Cast" in {node.op_type for node in quick.graph.node}) == (name != "nothing to promote")


def test_pytorch_is_left_as_it_was() -> None:
    before = ONNXRegistry.__dict__["from_torchlib"], _fx_passes.insert_type_promotion_nodes
    with quickly():
        assert ONNXRegistry.from_torchlib() is ONNXRegistry().from_torchlib()
        assert _fx_passes.insert_type_promotion_nodes is not before[1]
    after = ONNXRegistry.__dict__["from_torchlib"], _fx_passes.insert_type_promotion_nodes
    assert before == after
    assert ONNXRegistry.from_torchlib() is not ONNXRegistry.from_torchlib()


def test_another_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its functions have other names, nothing is replaced, and all else goes on."""
    monkeypatch.delattr(_fx_passes, "insert_type_promotion_nodes")
    module._promotion.cache_clear()
    with quickly():
        assert not hasattr(_fx_passes, "insert_type_promotion_nodes")
        assert ONNXRegistry.from_torchlib() is ONNXRegistry.from_torchlib()
