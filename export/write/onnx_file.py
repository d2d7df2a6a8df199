"""ONNX files: of one opset, standard operators only, weights inside."""

import math
import re
from functools import partial
from itertools import zip_longest

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from camcore.card import Card
from camcore.errors import ExportError
from camcore.export.detectors.seams import unwarned
from camcore.export.trace.graphs import first_line
from camcore.export.trace.subject import MODEL
from camcore.export.write.capture import errors_alone, rewrite
from camcore.export.write.fold import fold_reductions, fold_scales
from camcore.export.write.forms import ONNX_RULES
from camcore.export.write.loop_weights import add_integers, suit_weights_to_loops
from camcore.export.write.lower import decompose_by_node
from camcore.export.write.quickly import quickly
from camcore.export.write.spell_out import spell_out

aten = torch.ops.aten

OPSET = 18
# Protobuf refuses messages of 2 GiB; the usual limit for a single file leaves it some room.
_LARGEST_ONNX = 1_500_000_000
# Sizes and axes are smaller, weights are larger.
_SMALL_TENSOR = 1024

# The optimizer's, which tells on stderr what it leaves as it is.
_TELLS_WHAT_IT_LEAVES = "onnxscript.optimizer._constant_folding"

_PART_OF_A_BODY = re.compile(r"^(bodies\.\d+\.)?(head|prefix|tail|backward_pass)\.")


def to_onnx(program: ExportedProgram, card: Card) -> bytes:
    """A serialised ONNX model of opset 18, standard operators only, weights inside."""
    fold_reductions(program.graph, program.graph_signature.user_inputs)
    fold_scales(program.graph, program.graph_signature.user_inputs)
    rewrite(program, partial(spell_out, rules=ONNX_RULES))
    decompose_by_node(program)
    try:
        with unwarned(), errors_alone(_TELLS_WHAT_IT_LEAVES), quickly():
            written = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(card.graph_inputs),
                output_names=list(card.graph_outputs),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        # The outermost error says that it failed, the innermost which operator it was.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ExportError(
            f"the graph cannot be written as ONNX: {first_line(cause)}. TorchScript (.pt) and .pt2 "
            "may hold it"
        ) from error
    assert written is not None
    model = written.model
    _strip(model)
    _free_names(model.graph)
    _name_axes(model.graph, card)
    if card.class_ids == "optional":
        _default_class_ids(model.graph.inputs[len(card.inputs) - 1], model.graph)
    _keep_pads_apart(model.graph)
    suit_weights_to_loops(model.graph)
    foreign = {node.domain for node in model.graph.all_nodes()} - {""}
    if foreign or model.functions:
        raise ExportError(
            f"the ONNX graph needs operators of {foreign}, expected the standard domain only"
        )
    tensors = [value.const_value for value in model.graph.initializers.values()]
    weights = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    if weights > _LARGEST_ONNX:
        raise ExportError(
            f"the weights take {weights / 1e9:.1f} GB, a single ONNX file holds "
            f"{_LARGEST_ONNX / 1e9} GB. Write .pt2 instead"
        )
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(_without_weights(proto), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the ONNX graph is not sound: {first_line(error)}. TorchScript (.pt) and .pt2 may "
            "hold it, and a model in single precision, model.float(), is what every format knows"
        ) from error
    content: bytes = proto.SerializeToString()
    return content


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model for the checker, in which weights are inputs: their values are nothing that it looks
    at, and it would copy half a gigabyte of them.
    """
    light, graph = onnx.ModelProto(), proto.graph
    light.ir_version = proto.ir_version
    light.opset_import.extend(proto.opset_import)
    light.graph.name = graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(light.graph, part).extend(getattr(graph, part))
    known = {port.name for port in graph.input}
    for tensor in graph.initializer:
        if tensor.name in known or math.prod(tensor.dims) <= _SMALL_TENSOR:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


def _strip(model: ir.Model) -> None:
    """Drop what the exporter notes for debugging, source paths among it; name weights as the model
    does.
    """
    model.producer_name, model.producer_version, model.doc_string = "camcore", None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "explained"
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for value in list(model.graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            # The zeros that the exporter gave a convolution without bias, and took away again.
            del model.graph.initializers[str(value.name)]
            continue
        name, parts = _PART_OF_A_BODY.subn("", str(value.name))
        name = name.removeprefix(f"{MODEL}.")
        if parts and name not in model.graph.initializers:
            value.name = name


def _free_names(graph: ir.Graph) -> None:
    """Rename what has the name of a port or a weight by chance: a model may call its own `mean`."""
    ports = {value.name: value for value in [*graph.inputs, *graph.outputs]}
    weights = list(graph.initializers.values())
    inside = [value for node in graph.all_nodes() for value in node.outputs]
    taken = {value.name for value in weights} | set(ports)
    for value in weights:
        if value.name in ports and value is not ports[value.name]:
            value.name = f"{value.name}.inner"
    for value in inside:
        if value.name in taken and value is not ports.get(value.name):
            value.name = f"{value.name}.inner"


def _name_axes(graph: ir.Graph, card: Card) -> None:
    if card.is_detector:
        *found, maps = graph.outputs
        space = list(card.image.space)
        for value in found:
            _rename_free(value, ["detections", "", *space])
        _rename_free(maps, ["", "", *space] if card.shares_map else ["explained", *space])
        _rename_free(graph.inputs[0], ["", "", *space])
        return
    image, *further = graph.inputs[: 1 + len(card.further_inputs)]
    own = len(card.own_outputs)
    outputs, explanation = graph.outputs[:own], graph.outputs[own : len(card.outputs)]
    classes, saliency_map, *boxes = explanation
    space = list(card.image.space)
    channels_last = image.dtype == ir.DataType.UINT8
    names = ["batch", *space, "channels"] if channels_last else ["batch", "", *space]
    # A size of the image goes by its name wherever else it appears.
    known = dict(zip(map(str, image.shape or ()), names, strict=True))
    for value in [*further, *outputs]:
        _rename_free(value, [known.get(str(size), "") for size in value.shape or ()])
    _rename_free(image, names)
    if card.queries is not None:
        _rename_free(further[-1], ["queries_batch", "queries"])
        _forget_rows(further[-1])
        _rename_free(outputs[-1], ["batch", "queries"])
    if card.takes_ids:
        # Not `batch`: one row of ids serves any batch.
        class_ids = graph.inputs[len(card.inputs) - 1]
        _rename_free(class_ids, ["ids_batch", "k"])
        _forget_rows(class_ids)
    _rename_free(classes, ["batch", "k"])
    _rename_free(saliency_map, ["batch", "k", *space])
    for value in boxes:
        _rename_free(value, ["batch", "k"])
    if card.steps is not None:
        *_, steps, state = graph.inputs
        _rename_free(steps, ["due"])
        for value in (state, graph.outputs[-1]):
            _rename_free(value, ["k" if axis == "classes" else str(axis) for axis in card.state])


def _rename_free(value: ir.Value, names: list[str]) -> None:
    """Name the free sizes of a value; those for which there is no name keep the exporter's."""
    assert value.shape is not None
    pairs = zip_longest(value.shape, names[: len(value.shape)], fillvalue="")
    value.shape = ir.Shape(
        [size if isinstance(size, int) or not name else name for size, name in pairs]
    )


def _forget_rows(class_ids: ir.Value) -> None:
    """Drop the shapes of what is made of the ids alone, which the exporter takes for one row an
    image: onnxruntime would lay a value of as many rows into the memory of a single one.
    """
    alone = {class_ids}
    for value in [use.node for use in class_ids.uses()]:
        given = [each for each in value.inputs if each is not None]
        if all(each in alone or each.const_value is not None for each in given):
            for output in value.outputs:
                output.shape = None


def _default_class_ids(class_ids: ir.Value, graph: ir.Graph) -> None:
    """Let a caller leave `class_ids` out: an initializer of the name of an input is its default."""
    class_ids.const_value = ir.tensor(np.array([[-1]], dtype=np.int64), name=class_ids.name)
    graph.register_initializer(class_ids)


def _keep_pads_apart(graph: ir.Graph) -> None:
    """Name the axes of a Pad before a MaxPool.

    onnxruntime before 1.32 makes one of the two where they are not named. But what a MaxPool pads
    is lower than all, not zero.
    """
    for node in list(graph.all_nodes()):
        if node.op_type != "Pad" or len(node.inputs) > 3:
            continue
        x, *_ = node.inputs
        after = {use.node.op_type for use in node.outputs[0].uses()}
        if "MaxPool" in after and x is not None and x.shape is not None:
            assert node.graph is not None
            name = f"{node.outputs[0].name}.axes"
            node.resize_inputs(4)
            node.replace_input_with(3, add_integers(node.graph, name, range(x.shape.rank())))
