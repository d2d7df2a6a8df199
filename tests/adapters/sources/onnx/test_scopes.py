from onnx.helper import make_node

from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.scopes import scopes_of, with_scopes_between


def test_what_the_exporter_noted() -> None:
    node = make_node("Relu", ["x"], ["y"], name="node_relu")
    entry = node.metadata_props.add()
    entry.key = "pkg.torch.onnx.name_scopes"
    entry.value = "['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_1']"
    assert scopes_of(node) == ("layer1", "layer1.0", "layer1.0.relu")
    entry.value = "['',"
    assert scopes_of(node) == ()


def test_names_as_paths() -> None:
    def of(name: str) -> tuple[str, ...]:
        return scopes_of(make_node("Relu", ["x"], ["y"], name=name))

    assert of("/features/features.0/features.0.1/Relu")[-1] == "features.0.1"
    assert of("/blocks.0/attn/Softmax") == ("blocks.0", "blocks.0.attn")
    assert of("Relu_7") == of("") == ()


def test_a_node_without_scope_stands_in_those_around_it() -> None:
    def node(*scopes: str) -> Node:
        return Node("n", "Relu", ("x",), ("y",), scopes=scopes)

    nodes = [node("a", "a.b"), node(), node("a", "a.c"), node(), node("d")]
    assert [each.scopes for each in with_scopes_between(nodes)][1::2] == [("a",), ()]
