"""Which operators become eight bits."""

import onnx
import onnx.parser

from camcore.adapters.convert.int8 import _products_before
from camcore.adapters.convert.names import is_own, name_operators

_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
explained (float[B, 2] image) => (float[B, 2] scores, float[B, 2] map)
<float[2, 2] weight = {1, 0, 0, 1}, float[2] shift = {1, 2}>
{
    features = MatMul (image, weight)
    shifted = Add (features, shift)
    scores = Gemm (shifted, weight)
    turned = Transpose (features)
    free = MatMul (turned, scores)
    map = MatMul (scores, weight)
}
"""


def test_products_with_weights_that_lead_to_the_scores() -> None:
    graph = onnx.parser.parse_model(_GRAPH).graph
    name_operators(graph)
    operators = {node.name: node.output[0] for node in graph.node}
    chosen = {operators[name] for name in _products_before(graph, ["scores"])}
    assert chosen == {"features", "scores"}
    assert {operators[name] for name in _products_before(graph, ["map"])} == chosen | {"map"}
    assert all(map(is_own, graph.node))
    assert not is_own(onnx.NodeProto(name="graph_input_cast0"))
