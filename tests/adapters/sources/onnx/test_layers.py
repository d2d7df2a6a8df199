import numpy as np
import pytest
import torch
from torch import nn

from camcore.adapters.sources.onnx.layers import Weights, torch_layer
from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.tidy import run_node

RNG = np.random.default_rng(0)


def some(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("node", "kind", "constants", "shape"),
    [
        (
            Node("n", "Conv", ("x", "w", "b"), ("y",), {"pads": [1, 1, 1, 1], "group": 2}),
            nn.Conv2d,
            {"w": some(4, 2, 3, 3), "b": some(4)},
            (2, 4, 5, 5),
        ),
        (
            Node("n", "Gemm", ("x", "w", "b"), ("y",), {"transB": 1}),
            nn.Linear,
            {"w": some(3, 4), "b": some(3)},
            (2, 4),
        ),
        (Node("n", "MatMul", ("x", "w"), ("y",)), nn.Linear, {"w": some(4, 3)}, (2, 5, 4)),
        (
            Node("n", "BatchNormalization", ("x", "w", "b", "m", "v"), ("y",)),
            nn.modules.batchnorm._BatchNorm,
            {"w": some(4), "b": some(4), "m": some(4), "v": abs(some(4))},
            (2, 4, 5),
        ),
    ],
    ids=lambda each: each.op if isinstance(each, Node) else None,
)
def test_a_layer_computes_what_the_node_does(
    node: Node, kind: type, constants: dict[str, np.ndarray], shape: tuple[int, ...]
) -> None:
    layer = torch_layer(node, constants, Weights(constants))
    assert isinstance(layer, kind)
    x = torch.from_numpy(some(*shape))
    expected = run_node(node, [x, *constants.values()])[0]
    torch.testing.assert_close(layer.eval()(x), expected)


def test_other_forms_are_no_layers() -> None:
    constants = {"w": some(4, 2, 3, 3)}
    pads = Node("n", "Conv", ("x", "w"), ("y",), {"pads": [0, 0, 1, 1]})
    assert torch_layer(pads, constants, Weights(constants)) is None
    assert torch_layer(Node("n", "MatMul", ("x", "z"), ("y",)), {}, Weights({})) is None


def test_a_weight_of_two_nodes_is_one() -> None:
    weights = Weights({"w": some(3, 3)})
    assert weights.get("w") is weights.get("w")
    assert weights.get("w", turned=True).shape == (3, 3)
