"""The model: what an ONNX file computes, as a module of images (B, C, H, W)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from camcore.adapters.sources.onnx.graph import Graph, Port
from camcore.adapters.sources.onnx.module import Scope, Uses, fill, leaves
from camcore.card import Probabilities
from camcore.errors import ExportError, InputError

# Operators that leave the order of classes, and the classes, as they are.
_PASSED_ON = ("Identity", "Cast", "Reshape", "Squeeze", "Flatten")
# What makes probabilities of scores, and what that is called in the card.
_PROBABILITIES: dict[str, Probabilities] = {
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "Sigmoid": "sigmoid",
}

# onnx.TensorProto.DataType
UINT8 = 2
_IMAGES = {1: "float32", 2: "uint8", 10: "float16", 11: "float64"}
_CHANNELS = (1, 3, 4)


class OnnxModel(Scope):
    """The graph of an ONNX file as a module.

    It takes images (B, C, H, W), floating, in whatever order and type the file does, and returns
    what the file does: a tensor, or a dictionary where the file has several outputs. Where the file
    ends in a softmax or a sigmoid, the scores before are in that dictionary as well, under
    `logits`, for probabilities tell little of a class. Its submodules have the names of the modules
    that the file was exported from, as far as it tells them, or those of its nodes.

    Attributes:
        graph: what was read.
        size: the image's height and width in the file, None where they are free.
        logits: the name of the output that is to be explained, None where it is the first.
        probabilities: what makes probabilities of it, None where that is not known.
        channels_last: whether the file takes (B, H, W, C).
        notes: how the module differs from the file.
    """

    def __init__(self, graph: Graph) -> None:
        port = _images(graph)
        before, probabilities = _before_probabilities(graph)
        outputs = [*graph.outputs, *([before] if before else [])]
        super().__init__([port.name], outputs)
        self.graph = graph
        self.probabilities = probabilities
        self.channels_last = is_channels_last(port)
        batch, *rest = port.sizes
        self.fixed_batch = batch
        self.channels, *size = [rest[-1], *rest[:-1]] if self.channels_last else rest
        self.size: tuple[int | None, ...] = tuple(size)
        self.logits = None if before is None else _free_name("logits", graph.outputs)
        self.notes = tuple(self._differences(port))
        # Behind all of these, whose names are then taken.
        fill(self, graph.nodes, graph.constants, Uses.of(graph.nodes, outputs))
        self.eval()

    def forward(self, image: Tensor) -> Any:
        for axis, (wanted, given) in enumerate(zip(self.size, image.shape[2:], strict=True)):
            if wanted is not None and wanted != given:
                raise ExportError(  # which a trace takes for a size that is fixed
                    f"{self.graph.path.name} fixes axis {axis + 2} of its images to {wanted}, got "
                    f"{given}"
                )
        order = (0, *range(2, image.ndim), 1)
        results = self.run(image.permute(order) if self.channels_last else image)
        results = tuple(_flat(each) for each in results)
        if len(results) == 1:
            return results[0]
        names = ["scores"] if len(self.graph.outputs) == 1 else list(self.graph.outputs)
        return dict(zip([*names, *filter(None, [self.logits])], results, strict=True))

    def layer_names(self) -> dict[str, str]:
        """The name of the module for each name of a node or a value, as viewers show them."""
        modules = leaves(self)
        by_node = {
            node.name: modules[output]
            for node in self.graph.nodes
            for output in node.outputs
            if output in modules
        }
        return modules | by_node

    def _differences(self, port: Port) -> list[str]:
        notes = []
        if self.logits is not None:
            notes.append(
                f"the file ends in a {self.probabilities}; explained are the scores before it, the "
                f"output {self.logits!r}"
            )
        if self.channels_last:
            notes.append("the file takes images (B, H, W, C); this one takes (B, C, H, W)")
        if port.kind == UINT8:
            notes.append(
                "the file takes uint8; this one takes the same values, 0 to 255, as float32: "
                "--pixels makes one of uint8"
            )
        if self.graph.half:
            notes.append("the file computes in half precision, this one in single")
        return notes


def is_channels_last(port: Port) -> bool:
    """Whether images of that port have their channels behind: as their sizes tell."""
    sizes = port.sizes
    return len(sizes) == 4 and sizes[3] in _CHANNELS and sizes[1] not in _CHANNELS


def _images(graph: Graph) -> Port:
    """The one input, which takes images."""
    if len(graph.inputs) != 1:
        names = ", ".join(port.name for port in graph.inputs) or "nothing"
        raise InputError(
            f"{graph.path} takes {names}; expected one input of images. Cut the graph behind the "
            "others: onnx.utils.extract_model(file, new, inputs, outputs)"
        )
    (port,) = graph.inputs
    if port.kind not in _IMAGES or len(port.sizes) != 4:
        raise InputError(
            f"{graph.path} takes {port.name!r} of {len(port.sizes)} axes and type number "
            f"{port.kind} of ONNX; expected images of four axes, float or uint8"
        )
    return port


def _before_probabilities(graph: Graph) -> tuple[str | None, Probabilities | None]:
    """The value that the first output is the softmax or sigmoid of, and which of the two."""
    makers = {output: node for node in graph.nodes for output in node.outputs if output}
    node = makers.get(graph.outputs[0])
    while node is not None and node.op in _PASSED_ON:
        node = makers.get(node.inputs[0])
    if node is None or node.op not in _PROBABILITIES:
        return None, None
    return node.inputs[0], _PROBABILITIES[node.op]


def _free_name(wanted: str, taken: Sequence[str]) -> str:
    return f"{wanted}_" if wanted in taken else wanted


def _flat(output: Tensor) -> Tensor:
    """Scores (B, N, 1, 1) as (B, N)."""
    if isinstance(output, Tensor) and output.ndim == 4 and tuple(output.shape[2:]) == (1, 1):
        return output.flatten(1)
    return output
