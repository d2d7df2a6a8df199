from camcore.adapters.sources.onnx.node import Node


def test_a_node_tells_its_version() -> None:
    node = Node("n", "Clip", ("x",), ("y", ""), {"min": 0.0}, opset=9)
    assert node.describe() == "node 'n' (Clip, opset 9)"
    assert node.get("min") == 0
    assert node.get("max", 6) == 6
    assert node.results == 1
