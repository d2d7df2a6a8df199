"""Compose a detector: trace it, find where its scores come from, and explain each detection.

The score of a detection is one number of a product, and what that looks at is small: the features
of one region, or a window of one level. A classifier of that is cut out of the graph, and its
gradient is that of the whole detector, for a hundredth of its price.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
import torchvision  # noqa: F401  # which brings its operators
from torch import Tensor, fx, nn

from camcore.errors import ExportError
from camcore.export.cut import crossing_of, cut
from camcore.export.detectors.body import DetectorBody
from camcore.export.detectors.coordinates import COORDINATES, find_terms
from camcore.export.detectors.geometry import Framing
from camcore.export.detectors.local import Rows, Window
from camcore.export.detectors.origins import find_origins
from camcore.export.detectors.parts import Explainer, Level, Passes, Regions, Weighed
from camcore.export.detectors.starts import likely_layers, starts_of
from camcore.export.detectors.whole import OUTPUTS
from camcore.export.find.places import check_level
from camcore.export.gradient.gradient import gradient_of
from camcore.export.request import Request
from camcore.export.trace.graphs import module_of, outputs_of, return_values, shape_of
from camcore.export.trace.trace import trace

# How many detections are explained unless the caller says otherwise; of those that take a pass
# each, fewer.
DETECTIONS, FEW = 20, 5

_ROI_ALIGN = torch.ops.torchvision.roi_align.default


class Composed(NamedTuple):
    """The body that explains the first `top` detections, at which layers, and the modules of the
    products whose numbers become scores, so many `channels` at a place. `local` says whether each
    score looks at a region or a window alone.
    """

    body: DetectorBody
    top: int
    local: bool
    layers: tuple[str, ...]
    products: tuple[str, ...]
    channels: int


def compose_detector(
    graph: fx.GraphModule,
    choices: Sequence[tuple[str, ...]],
    request: Request,
    framing: Framing,
    top: int | None,
) -> Composed:
    """The body that explains the detections of a traced detector.

    It is explained at the first of the choices of layers behind which all is local, else at the
    first by a pass back for each detection.

    Raises:
        ExportError: the scores cannot be followed, or none of the layers will do.
    """
    returned = outputs_of(graph)
    followed = find_origins(graph.graph, returned[OUTPUTS.index("scores")])
    channels = max(map(_channels, followed.roots))
    coordinate = request.subject.target.name
    if coordinate in COORDINATES:
        fixed = frozenset(_regions_of(graph.graph))
        boxes = returned[OUTPUTS.index("boxes")]
        followed = find_terms(graph.graph, boxes, coordinate, fixed)
    roots = followed.roots
    choices = choices or likely_layers(graph.graph, roots)
    refused: list[ExportError] = []
    # A region's features are all that its scores look at.
    ways = (True,) if any(map(_counts_regions, roots)) else (True, False)
    for local, layers in product(ways, choices):
        try:
            starts = starts_of(graph.graph, roots, layers)
            found = [
                (_local_part if local else _passes)(graph, start, root, request)
                for root, start in zip(roots, starts, strict=True)
            ]
            break
        except ExportError as error:
            refused.append(error)
    else:
        raise refused[-1]
    pairs = zip(roots, starts, strict=True)
    for start in dict.fromkeys(start for root, start in pairs if not _counts_regions(root)):
        check_level(graph, module_of(start), start)
    top = top or (DETECTIONS if local else FEW)
    values: list[fx.Node] = []
    taken: list[list[int]] = []
    for _, needed in found:
        values += [node for node in needed if node not in values]
        taken.append([values.index(node) for node in needed])
    parts = [part for part, _ in found]
    return_values(graph, [*returned, followed.ids, followed.slopes, *values])
    graph.graph.eliminate_dead_code()
    detector = fx.GraphModule(graph, graph.graph)
    body = DetectorBody(detector, len(returned), parts, taken, framing, top)
    products = tuple(dict.fromkeys(map(module_of, roots)))
    return Composed(body, top, local, layers, products, channels)


# A part, and the values that it looks at.
Part = tuple[Regions | Level | Passes, list[fx.Node]]


def _local_part(graph: fx.GraphModule, start: fx.Node, root: fx.Node, request: Request) -> Part:
    if _counts_regions(root):
        regions = regions_of(graph.graph)
        return _regions(graph, start, root, request), [start, regions]
    return _level(graph, start, root, request), [start]


def _passes(graph: fx.GraphModule, start: fx.Node, root: fx.Node, request: Request) -> Part:
    """For a product of which each number looks at all that the layer gives."""
    shape = start.meta["val"].shape
    if len(shape) != 4:
        raise ExportError(
            f"the layer gives a value of shape ({', '.join(shape_of(start))}), expected a map "
            "(1, C, h, w) of the image"
        )
    # With nothing behind the product.
    whole = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    whole.graph_copy(graph.graph, twins)
    scores = twins[root]
    flat = whole.call_function(torch.ops.aten.reshape.default, (scores, [1, -1]))
    flat.meta = scores.meta | {"val": scores.meta["val"].reshape(1, -1)}
    whole.output((flat,))
    whole.eliminate_dead_code()
    at = twins[start]
    parts = cut(fx.GraphModule(graph, whole), at=[at], kept=[at])
    back = {twin: node for node, twin in twins.items()}
    crossing = [back[node] for node in crossing_of(whole, [at])]
    gradient = gradient_of(parts, [at])
    return Passes(gradient, request), [start, *crossing]


def _channels(root: fx.Node) -> int:
    shape: Any = root.meta["val"].shape
    return int(shape[1] if len(shape) == 4 else shape[-1])


def _counts_regions(root: fx.Node) -> bool:
    return isinstance(root.meta["val"].shape[0], torch.SymInt)


def _regions(graph: fx.GraphModule, start: fx.Node, root: fx.Node, request: Request) -> Regions:
    shape = shape_of(start)
    if len(shape) != 4 or shape[0] != shape_of(root)[0]:
        raise ExportError(
            f"the layer gives a value of shape ({', '.join(shape)}), expected features "
            "(R, C, h, w) of each region: `roi_heads.box_roi_pool`, or a convolution behind it"
        )
    classes = int(root.meta["val"].shape[1])
    given = start.meta["val"]
    features = given.new_empty(2, *map(int, given.shape[1:]), device=_device(graph))
    head = Rows(graph, start, root)
    return Regions(_explainer(head, classes, (features,)), request, classes)


def _level(graph: fx.GraphModule, start: fx.Node, root: fx.Node, request: Request) -> Level:
    given, scores = shape_of(start), shape_of(root)
    if len(given) != 4 or given[2:] != scores[2:]:
        raise ExportError(
            f"the layer gives a value of shape ({', '.join(shape_of(start))}), the scores are of "
            f"shape ({', '.join(shape_of(root))}): choose a layer of the head"
        )
    channels, numbers = (int(node.meta["val"].shape[1]) for node in (start, root))
    head = Window(graph, start, root)
    points = 2 * head.radius + 1
    like = torch.zeros(2, channels, points, points, device=_device(graph))
    return Level(_explainer(head, numbers, (like, like[:, :1])), request, head.radius)


def _explainer(head: nn.Module, numbers: int, example: tuple[Tensor, ...]) -> Explainer:
    slopes = torch.ones(2, numbers, device=example[0].device)
    traced = trace(Weighed(head), (*example, slopes), dynamic_size=False)
    start = traced.graph.graph.find_nodes(op="placeholder")[0]
    parts = cut(traced.graph, at=[start], kept=[start])
    return Explainer(parts.head, gradient_of(parts, [start]), numbers)


def _device(graph: fx.GraphModule) -> torch.device:
    return next(graph.buffers()).device


def regions_of(graph: fx.Graph) -> fx.Node:
    """The regions (R, 5) whose features are aligned: batch, x1, y1, x2, y2.

    Raises:
        ExportError: the detector aligns no features.
    """
    found = _regions_of(graph)
    if not found:
        raise ExportError("the detector looks at regions whose features it does not align")
    return found[0]


def _regions_of(graph: fx.Graph) -> list[fx.Node]:
    """As `regions_of`, none where the detector aligns no features."""
    aligned = graph.find_nodes(op="call_function", target=_ROI_ALIGN)
    # Masks have others, behind these.
    calls = [node for node in aligned if module_of(node) == module_of(aligned[0])]
    if not calls:
        return []
    given = calls[0].args[1]
    # Of several levels, each takes those that belong to it.
    return [given.args[0] if len(calls) > 1 else given]
