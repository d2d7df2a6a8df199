"""Step 4, write: an explained module becomes the bytes of an `.onnx`, `.pt` or `.pt2` file.

All three formats come from one exported program. The bytes carry no card yet: it is attached once
they are proven.
"""

import math
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from camcore.card import Card
from camcore.errors import ExportError
from camcore.export.compose import Explained
from camcore.export.gradient.rules import FREE_SIZE_RULES, ONNX_RULES
from camcore.export.passes.body import PassesBody, SteppedBody
from camcore.export.trace.pixels import as_pixels
from camcore.export.trace.subject import MODEL
from camcore.export.trace.trace import example_batch, first_line, without_assertions
from camcore.export.write.loop_weights import add_integers, suit_weights_to_loops
from camcore.export.write.scripting import scriptable
from camcore.export.write.simplify import fold_reductions, fold_scales, simplify, spell_out

OPSET = 18
# Protobuf refuses messages of 2 GiB; the usual limit for a single file leaves it some room.
_LARGEST_ONNX = 1_500_000_000
# Sizes and axes are smaller, weights are larger.
_SMALL_TENSOR = 1024

_PART_OF_A_BODY = re.compile(r"^(bodies\.\d+\.)?(head|prefix|tail|backward_pass)\.")

aten = torch.ops.aten


def capture(explained: Explained) -> ExportedProgram:
    """The explained module as one program of the card's `graph_inputs`, batch and K free."""
    card = explained.card
    body: nn.Module = explained.body
    request = explained.request
    image, *others = map(example_batch, request.inputs)
    if request.pixels is not None:
        image = as_pixels(image)
    k = min(2, card.num_classes)
    class_ids = torch.full((len(image), k), -1, dtype=torch.int64, device=image.device)
    spatial = request.spatial_axes if card.image.is_any_size else ()
    free_image = dict.fromkeys([0, *spatial], Dim.DYNAMIC)
    free_others = [{0: Dim.DYNAMIC} for _ in others]
    # A model of one class can explain no more than that one.
    free_ids = dict.fromkeys([0, 1] if k > 1 else [0], Dim.DYNAMIC)
    arguments, free = [image, *others, class_ids], [free_image, *free_others, free_ids]
    if card.steps is not None:
        assert isinstance(body, PassesBody)
        body = SteppedBody(body)
        steps = torch.arange(card.steps, device=image.device)
        state = request.inputs[0].new_zeros(card.state_shape(image.shape, k))
        free_axes = {"batch": True, "classes": k > 1, "height": spatial, "width": spatial}
        free_state = [axis for axis, name in enumerate(card.state) if free_axes.get(str(name))]
        arguments += [steps, state]
        free += [{0: Dim.DYNAMIC} if card.steps > 1 else {}, dict.fromkeys(free_state, Dim.DYNAMIC)]
    # Oblivious of the example's sizes, or K of a model of two classes would be taken for two. But
    # then the sizes of slices, which gradients may be made of, may not be seen to fit; and torch
    # 2.11 forgets them.
    keeps_sizes = torch.__version__ >= "2.12" or isinstance(body, PassesBody | SteppedBody)
    ways = [True] if k == card.num_classes else [True, False] if keeps_sizes else [False]
    try:
        with torch.no_grad():
            program = _exported(body, tuple(arguments), (tuple(free),), ways)
            if spatial:
                _rewrite(program, partial(spell_out, rules=FREE_SIZE_RULES))
            simplify(program.graph)
    except Exception as error:
        raise ExportError(f"the explained graph cannot be exported: {first_line(error)}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source paths are nobody's business
    return program


def _exported(
    body: nn.Module, arguments: tuple[Tensor, ...], free: Any, ways: Sequence[bool]
) -> ExportedProgram:
    """The program, oblivious of the example's sizes or not: by the first of `ways` that works."""
    for oblivious in ways:
        try:
            with _config.patch(backed_size_oblivious=oblivious):  # type: ignore[attr-defined]
                return torch.export.export(body, arguments, dynamic_shapes=free)
        except Exception as error:
            failure = error
    raise failure


def _rewrite(program: ExportedProgram, rewrite: Callable[[fx.Graph], None]) -> None:
    """Rewrite every graph of a program in place: loops have graphs of their own."""
    for part in program.graph_module.modules():
        if isinstance(part, fx.GraphModule):
            rewrite(part.graph)
            part.recompile()


def to_onnx(program: ExportedProgram, card: Card) -> bytes:
    """A serialised ONNX model of opset 18, standard operators only, weights inside."""
    fold_reductions(program.graph, program.graph_signature.user_inputs)
    fold_scales(program.graph, program.graph_signature.user_inputs)
    _rewrite(program, partial(spell_out, rules=ONNX_RULES))
    try:
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
    """Rename what has the name of an input or output by chance: a model may call its own `mean`."""
    inside = [value for node in graph.all_nodes() for value in node.outputs]
    inside += graph.initializers.values()
    ports = {value.name: value for value in [*graph.inputs, *graph.outputs]}
    for value in inside:
        if value.name in ports and value is not ports[value.name]:
            value.name = f"{value.name}.inner"


def _name_axes(graph: ir.Graph, card: Card) -> None:
    *inputs, class_ids = graph.inputs[: len(card.inputs)]
    *outputs, classes, saliency_map = graph.outputs[: len(card.outputs)]
    space = list(card.image.space)
    image = inputs[0]
    channels_last = image.dtype == ir.DataType.UINT8
    names = ["batch", *space, "channels"] if channels_last else ["batch", "", *space]
    # A size of the image goes by its name wherever else it appears.
    known = dict(zip(map(str, image.shape or ()), names, strict=True))
    for value in [*inputs[1:], *outputs]:
        _rename_free(value, [known.get(str(size), "") for size in value.shape or ()])
    _rename_free(image, names)
    # Not `batch`: one row of ids serves any batch.
    _rename_free(class_ids, ["ids_batch", "k"])
    _rename_free(classes, ["batch", "k"])
    _rename_free(saliency_map, ["batch", "k", *space])
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


def to_torchscript(program: ExportedProgram, card: Card) -> bytes:
    """A TorchScript archive: the captured graph, scripted, for a trace would fix its sizes."""
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    scripted = scriptable(without_assertions(graph), card.graph_inputs)
    buffer = BytesIO()
    with warnings.catch_warnings():
        # PyTorch deprecates TorchScript as a whole; whoever asks for this format knows. The other
        # one is about annotations in PyTorch's own fx.GraphModule.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.")
        warnings.filterwarnings("ignore", message="The TorchScript type system doesn't support")
        try:
            torch.jit.save(torch.jit.script(scripted), buffer)
        except RuntimeError as error:
            raise ExportError(f"the graph cannot be scripted: {first_line(error)}") from error
    return buffer.getvalue()


def to_pt2(program: ExportedProgram, card: Card) -> bytes:
    """A `torch.export` archive, good for every size that the proof tries."""
    # Newer versions of PyTorch save what they guessed from the example's sizes, "batch is not 1"
    # among it, and `module()` would insist on it.
    vars(program).get("_guards_code", []).clear()
    # K from "not 1" to two classes is a fixed size to torch 2.11.
    for symbol, span in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(span.lower, int_oo)
    _rewrite(program, _add_sizes_in_pairs)
    # Nobody needs the images of the trace again: 14 MB of them at 224 x 224.
    program.example_inputs = None
    buffer = BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _add_sizes_in_pairs(graph: fx.Graph) -> None:
    """Sums of sizes as additions, for torch 2.11 has no place for the sums in its archive."""
    for node in graph.find_nodes(op="call_function", target=torch.sym_sum):
        total, *others = node.args[0]
        with graph.inserting_before(node):
            for other in others:
                values = fx.map_arg((total, other), lambda argument: argument.meta["val"])
                total = graph.call_function(operator.add, (total, other))
                total.meta["val"] = operator.add(*values)
        node.replace_all_uses_with(total)
        graph.erase_node(node)


WRITERS: dict[str, Callable[[ExportedProgram, Card], bytes]] = {
    ".onnx": to_onnx,
    ".pt": to_torchscript,
    ".pt2": to_pt2,
}
