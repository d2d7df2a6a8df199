"""Kernels: each kernel of `camcore` as a small ONNX model of its own, to be joined to others.

The shapes are free. What lies inside is named after the kernel, so that several of them go into one
graph by `onnx.compose.merge_models`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental import _config

import camcore
from camcore.export.write.capture import rewrite
from camcore.export.write.forms import FREE_SIZE_RULES, ONNX_RULES
from camcore.export.write.lower import decompose_by_node
from camcore.export.write.onnx_file import OPSET
from camcore.export.write.quickly import quickly
from camcore.export.write.spell_out import spell_out

_FEATURES = "batch channels height width"
_MAPS = "batch height width"
_IMAGE = "batch colours image_height image_width"

# Of the example that is traced; no two alike, or the trace would take one for the other.
_SIZES = {
    "batch": 2,
    "channels": 5,
    "height": 7,
    "width": 6,
    "boxes": 3,
    "colours": 3,
    "image_height": 17,
    "image_width": 19,
}
_FIXED = {"colours": 3, "4": 4}


@dataclass(frozen=True)
class Kernel:
    """A function of arrays, with the axes of each of them by name, and the name of its result.

    Float32 unless `types` says otherwise, one letter an input: `f`, `b` for bool, `i` for int64.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    output: str
    types: str = "ff"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, which are the function's own."""
        parameters = inspect.signature(self.function).parameters.values()
        positional = [each.name for each in parameters if each.kind is each.POSITIONAL_ONLY]
        return tuple(positional[: len(self.inputs)])

    @property
    def text(self) -> str:
        """What the kernel does, without the example."""
        return (inspect.getdoc(self.function) or "").partition("\n>>>")[0].strip()


def resize_to_image(maps: Tensor, image: Tensor, /) -> Any:
    """Maps (B, H, W) resized to the height and width of an image (B, 3, H', W'), bilinearly, as
    `cv2.resize` does. Of the image the size alone counts.
    """
    return camcore.resize(maps, _size(image))


def postprocess_to_image(maps: Tensor, image: Tensor, /) -> Any:
    """Raw maps (B, H, W) as saliency maps in [0, 1] of the height and width of an image
    (B, 3, H', W'): what speaks against the class is cut off, the rest scaled and resized.
    """
    return camcore.postprocess(maps, _size(image))


def score_masks_of_image(activations: Tensor, image: Tensor, /) -> Any:
    """The masks (B, C, H', W') in [0, 1] by which Score-CAM hides parts of an image
    (B, 3, H', W'), one for each channel of the activations (B, C, H, W).
    """
    return camcore.score_masks(activations, _size(image))


def component_boxes_of_5(masks: Tensor, /) -> Any:
    """The boxes (B, 5, 4) of the five largest regions of masks (B, H, W), x1, y1, x2, y2 in
    pixels, x2 and y2 exclusive, largest first; -1 where there are fewer.
    """
    return camcore.component_boxes(masks, count=5)


def _size(image: Tensor) -> tuple[Any, Any]:
    return image.shape[-2], image.shape[-1]


def _features(function: Callable[..., Any]) -> Kernel:
    return Kernel(function, (_FEATURES,), "maps")


def _with_gradients(function: Callable[..., Any]) -> Kernel:
    return Kernel(function, (_FEATURES, _FEATURES), "maps")


KERNELS = {
    "activation": _features(camcore.activation),
    "fem": _features(camcore.fem),
    "eigencam": _features(camcore.eigencam),
    "gradcam": _with_gradients(camcore.gradcam),
    "gradcam_plus_plus": _with_gradients(camcore.gradcam_plus_plus),
    "xgradcam": _with_gradients(camcore.xgradcam),
    "hirescam": _with_gradients(camcore.hirescam),
    "gradcam_elementwise": _with_gradients(camcore.gradcam_elementwise),
    "layercam": _with_gradients(camcore.layercam),
    "cam": Kernel(camcore.cam, (_FEATURES, "batch channels"), "maps"),
    "weighted_sum": Kernel(camcore.weighted_sum, (_FEATURES, "batch channels"), "maps"),
    "normalize": Kernel(camcore.normalize, (_MAPS,), "saliency_map"),
    "resize": Kernel(resize_to_image, (_MAPS, _IMAGE), "resized"),
    "postprocess": Kernel(postprocess_to_image, (_MAPS, _IMAGE), "saliency_map"),
    "otsu_threshold": Kernel(camcore.otsu_threshold, (_MAPS,), "threshold"),
    "threshold_masks": Kernel(camcore.threshold_masks, (_MAPS,), "masks"),
    "label_components": Kernel(camcore.label_components, (_MAPS,), "labels", "b"),
    "largest_component": Kernel(camcore.largest_component, (_MAPS,), "largest", "b"),
    "component_boxes": Kernel(component_boxes_of_5, (_MAPS,), "boxes", "b"),
    "box_scores": Kernel(camcore.box_scores, (_MAPS, "batch boxes 4"), "box_scores", "fi"),
    "score_masks": Kernel(score_masks_of_image, (_FEATURES, _IMAGE), "score_masks"),
}


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arrays: Tensor) -> Any:
        return self.function(*arrays)


def kernel_model(name: str) -> onnx.ModelProto:
    """A kernel of `KERNELS` as an ONNX model of opset 18 and standard operators.

    The model's docstring is the kernel's, and that of each input and output names its axes.

    >>> [value.name for value in kernel_model("gradcam").graph.input]
    ['activations', 'gradients']
    """
    kernel = KERNELS[name]
    arrays = tuple(
        example(axes.split(), kind) for axes, kind in zip(kernel.inputs, kernel.types, strict=False)
    )
    free = tuple(
        {n: Dim.DYNAMIC for n, axis in enumerate(axes.split()) if axis not in _FIXED}
        for axes in kernel.inputs
    )
    # Oblivious of the example's sizes, as the capture of a whole model is.
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(_Module(kernel.function), arrays, dynamic_shapes=(free,))
    rewrite(program, partial(spell_out, rules=FREE_SIZE_RULES))
    rewrite(program, partial(spell_out, rules=ONNX_RULES))
    decompose_by_node(program)
    with quickly():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(kernel.names),
            output_names=[kernel.output],
            verbose=False,
        )
    assert written is not None
    _name_axes(written.model.graph, kernel)
    _keep_apart(written.model.graph, name)
    model = ir.to_proto(written.model)
    model.doc_string, model.producer_name, model.producer_version = kernel.text, "camcore", ""
    model.graph.name = name
    for value, axes in zip(model.graph.input, kernel.inputs, strict=True):
        value.doc_string = f"({axes.replace(' ', ', ')})"
    onnx.checker.check_model(model, full_check=True)
    return model


def example(axes: list[str], kind: str) -> Tensor:
    """An array of those axes, of which only shape and type matter."""
    shape = [_FIXED.get(axis) or _SIZES[axis] for axis in axes]
    if kind == "b":
        return torch.ones(shape, dtype=torch.bool)
    return torch.ones(shape, dtype=torch.int64 if kind == "i" else torch.float32)


def _name_axes(graph: ir.Graph, kernel: Kernel) -> None:
    """Give the free sizes the names of the axes, wherever they appear in a port."""
    names: dict[str, str] = {}
    for value, axes in zip(graph.inputs, kernel.inputs, strict=True):
        assert value.shape is not None
        for size, axis in zip(value.shape, axes.split(), strict=True):
            if not isinstance(size, int):
                names.setdefault(str(size), axis)
    for value in [*graph.inputs, *graph.outputs]:
        assert value.shape is not None
        value.shape = ir.Shape(
            [size if isinstance(size, int) else names.get(str(size)) for size in value.shape]
        )


def _keep_apart(graph: ir.Graph, name: str) -> None:
    """Begin the name of everything inside with the kernel's, and drop what the exporter noted.

    Not by `onnx.compose.add_prefix`: it forgets what the body of a loop takes from outside.
    """
    ports = {id(value) for value in [*graph.inputs, *graph.outputs]}
    inside = list(graph.initializers.values())
    for node in graph.all_nodes():
        node.name = f"{name}/{node.name}"
        node.metadata_props.clear()
        node.doc_string = None
        inside += node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                inside += [*body.inputs, *body.initializers.values()]
    for value in inside:
        value.metadata_props.clear()
        if id(value) not in ports:
            value.name = f"{name}/{value.name}"
