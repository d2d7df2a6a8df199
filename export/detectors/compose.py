"""Compose a detector: trace it, find where its scores come from, and explain each detection.

The score of a detection is one number of a product, and what that looks at is small: the features
of one region, or a window of one level. A classifier of that is cut out of the graph, and its
gradient is that of the whole detector, for a hundredth of its price.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torchvision  # noqa: F401  # which brings its operators
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

from camcore.errors import ExportError
from camcore.export.cut import cut, dependents
from camcore.export.detectors.body import DetectorBody
from camcore.export.detectors.geometry import Frame, over_level
from camcore.export.detectors.local import Rows, Window
from camcore.export.detectors.origins import Root, find_origins
from camcore.export.detectors.parts import Explainer, Level, Regions
from camcore.export.find.modules import returned_by_calls
from camcore.export.gradient.gradient import gradient_of
from camcore.export.request import Request
from camcore.export.trace.graphs import outputs_of, shape_of
from camcore.export.trace.trace import trace

_ROI_ALIGN = torch.ops.torchvision.roi_align.default


def compose_detector(
    graph: fx.GraphModule, layers: Sequence[str], request: Request, frame: Frame
) -> tuple[str, DetectorBody]:
    """The body that explains the detections of a traced detector, and at which layer.

    It is the first of the layers behind which all is local.

    Raises:
        ExportError: the scores cannot be followed, or there is no such layer.
    """
    boxes, labels, scores = outputs_of(graph)
    ids, roots = find_origins(graph.graph, scores)
    for layer in layers:
        try:
            starts = _starts(graph.graph, roots, layer)
            parts = [
                _part(graph, start, root, request, frame)
                for root, start in zip(roots, starts, strict=True)
            ]
            break
        except ExportError:
            if layer == layers[-1]:
                raise
    values: list[fx.Node] = []
    taken: list[list[int]] = []
    for root, start in zip(roots, starts, strict=True):
        needed = [start, regions_of(graph.graph)] if _counts_regions(root) else [start]
        values += [node for node in needed if node not in values]
        taken.append([values.index(node) for node in needed])
    graph.graph.output_node().args = ((boxes, labels, scores, ids, *values),)
    # What the exporter knew of the inputs and outputs as they were is out of date.
    graph.graph.set_codegen(CodeGen())
    detector = fx.GraphModule(graph, graph.graph)
    return layer, DetectorBody(detector, parts, list(map(_span, roots)), taken, request.top)


def _part(
    graph: fx.GraphModule, start: fx.Node, root: Root, request: Request, frame: Frame
) -> Regions | Level:
    build = _regions if _counts_regions(root) else _level
    return build(graph, start, root, request, frame)


def _span(root: Root) -> tuple[int, int]:
    """The ids of a product's numbers; of regions, all that there are."""
    shape: Any = root.node.meta["val"].shape
    count = sys.maxsize if _counts_regions(root) else shape.numel()
    return root.start, root.start + count


def _counts_regions(root: Root) -> bool:
    return isinstance(root.node.meta["val"].shape[0], torch.SymInt)


def _regions(
    graph: fx.GraphModule, start: fx.Node, root: Root, request: Request, frame: Frame
) -> Regions:
    shape = shape_of(start)
    if len(shape) != 4 or shape[0] != shape_of(root.node)[0]:
        raise ExportError(
            f"the layer gives a value of shape ({', '.join(shape)}), expected features "
            "(R, C, h, w) of each region: `roi_heads.box_roi_pool`, or a convolution behind it"
        )
    classes = int(root.node.meta["val"].shape[1])
    given = start.meta["val"]
    features = given.new_empty(2, *map(int, given.shape[1:]), device=_device(graph))
    head = Rows(graph, start, root.node)
    return Regions(_explainer(head, (features,)), request, classes, frame)


def _level(
    graph: fx.GraphModule, start: fx.Node, root: Root, request: Request, frame: Frame
) -> Level:
    _, channels, height, width = map(int, start.meta["val"].shape)
    if tuple(root.node.meta["val"].shape[2:]) != (height, width):
        raise ExportError(
            f"the layer gives a map of {height} x {width} points, the scores are of "
            f"{tuple(root.node.meta['val'].shape[2:])}: choose a layer of the head"
        )
    head = Window(graph, start, root.node)
    points = 2 * head.radius + 1
    like = torch.zeros(2, channels, points, points, device=_device(graph))
    explainer = _explainer(head, (like, like[:, :1]))
    placement = over_level(frame, (height, width))
    rows, columns = (each.to(like) for each in placement)
    return Level(explainer, request, head.radius, (height, width), (rows, columns))


def _explainer(head: nn.Module, example: tuple[Tensor, ...]) -> Explainer:
    traced = trace(head, example, dynamic_size=False)
    start = traced.graph.graph.find_nodes(op="placeholder")[0]
    parts = cut(traced.graph, at=[start], kept=[start])
    return Explainer(parts.head, gradient_of(parts, [start]))


def _device(graph: fx.GraphModule) -> torch.device:
    return next(graph.buffers()).device


def _starts(graph: fx.Graph, roots: Sequence[Root], layer: str) -> list[fx.Node]:
    """What a layer gives to each product: of several values, the one that it looks at last."""
    returned = returned_by_calls(graph, layer)
    return [_last_before(root.node, returned, layer) for root in roots]


def _last_before(root: fx.Node, candidates: Sequence[fx.Node], layer: str) -> fx.Node:
    reaching = [node for node in candidates if root in dependents([node])]
    last = [
        node
        for node in reaching
        if not any(other in dependents([node]) for other in reaching if other is not node)
    ]
    if len(last) != 1:
        raise ExportError(
            f"the layer {layer!r} gives {len(last)} values that the class scores look at, expected "
            "one for each: choose another layer"
        )
    return last[0]


def regions_of(graph: fx.Graph) -> fx.Node:
    """The regions (R, 5) whose features are aligned: batch, x1, y1, x2, y2.

    Raises:
        ExportError: the detector aligns no features.
    """
    calls = graph.find_nodes(op="call_function", target=_ROI_ALIGN)
    if not calls:
        raise ExportError("the detector looks at regions whose features it does not align")
    given = calls[0].args[1]
    # Of several levels, each takes those that belong to it.
    return given.args[0] if len(calls) > 1 else given  # type: ignore[no-any-return]
